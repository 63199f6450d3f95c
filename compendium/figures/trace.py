"""What a network does, seen while it runs: which module or function made each map, and from which others.

Modules are followed with forward hooks and the functions between them with a torch function mode, on the meta
device: no memory, no arithmetic. So kernels, groups, shapes and counts are those of the module as it is now.
"""

import copy
import inspect
import itertools
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from magunet.model import count_parameters

VIEWS = {"flatten", "unflatten", "transpose", "permute", "contiguous", "unsqueeze", "squeeze", "expand", "expand_as",
         "reshape", "view", "to", "float", "get"}
"""Functions after which a map still holds the same numbers: they make no node."""
SYMBOLS = {"add": "+", "iadd": "+", "mul": "×", "imul": "×", "cat": "concatenate", "relu": "ReLU"}
TIMES = "\u00a0×\u00a0"
SUPERSCRIPTS, SUBSCRIPTS = (str.maketrans("0123456789", digits) for digits in ("⁰¹²³⁴⁵⁶⁷⁸⁹", "₀₁₂₃₄₅₆₇₈₉"))


@dataclass(frozen=True)
class Node:
    """One map of a network and what made it.

    kind: "input", "parameter", "module", "function" or "output". path: of the module, or of the one that calls the function.
    lines: what is done, in words. sources: indices of the nodes it is made from. shape: of the map, without the
    batch. parameters: of the module; one that runs twice is counted the first time.
    """

    kind: str
    path: str
    lines: tuple[str, ...]
    sources: tuple[int, ...]
    shape: tuple[int, ...]
    parameters: int = 0


def power(sizes: Sequence[int]) -> str:
    """Kernel sizes: 3, 3, 3 as "3³", others as "1×3×3"."""
    return f"{sizes[0]}{str(len(sizes)).translate(SUPERSCRIPTS)}" if len(set(sizes)) == 1 else "×".join(map(str, sizes))


def shape_text(shape: Sequence[int]) -> str:
    """Channels, slices, rows and columns; equal rows and columns as a square: "32 × 50 × 256²"."""
    last = (f"{shape[-1]}²",) if len(shape) > 2 and shape[-1] == shape[-2] else tuple(shape[-2:])
    return " × ".join(map(str, (*shape[:-2], *last)))


def symbol(name: str) -> str:
    """A Greek letter for its name, others unchanged: "cam.beta" is "β"."""
    last = name.rpartition(".")[2]
    try:
        return unicodedata.lookup(f"GREEK SMALL LETTER {last}")
    except KeyError:
        return last


def describe(module: nn.Module) -> tuple[str, ...]:
    """What a module does, in lines, read from its attributes: operations, then the channels from convolution to convolution."""
    leaves, blocks, channels = _leaves(module), [], []
    for leaf in leaves:
        if hasattr(leaf, "out_channels"):
            channels += [leaf.out_channels] if channels else [leaf.in_channels, leaf.out_channels]
        if hasattr(leaf, "out_channels") or not blocks:
            blocks.append([])
        blocks[-1].append(_operation(leaf))
    lines = [f"{times}{TIMES}({text})" if times > 1 else text for times, text in _runs([", ".join(block) for block in blocks])]
    return (*lines, " → ".join(map(str, channels))) if channels else tuple(lines)


def _leaves(module: nn.Module) -> list[nn.Module]:
    return [leaf for child in module for leaf in _leaves(child)] if isinstance(module, nn.Sequential) else [module]


def _runs(texts: list[str]) -> list[tuple[int, str]]:
    return [(len(list(same)), text) for text, same in itertools.groupby(texts)]


def _operation(leaf: nn.Module) -> str:
    match leaf:
        case nn.Conv3d() | nn.Conv1d() | nn.ConvTranspose3d():
            kind = "transposed conv" if isinstance(leaf, nn.ConvTranspose3d) else "conv"
            stride = f" stride\u00a0{power(leaf.stride)}" if set(leaf.stride) != {1} else ""
            groups = f" in {leaf.groups}\u00a0groups" if leaf.groups > 1 else ""
            return f"{kind}\u00a0{power(leaf.kernel_size)}{stride}{groups}"
        case nn.MaxPool3d():
            return f"max pool\u00a0{power(torch.broadcast_to(torch.tensor(leaf.kernel_size), (3,)).tolist())}"
        case nn.BatchNorm3d():
            return "BN"
        case nn.Upsample():
            return f"{leaf.mode}{TIMES}{leaf.scale_factor:g}"
    inside = [_operation(m).removeprefix("conv\u00a0") for m in leaf.modules() if hasattr(m, "out_channels")]
    kernels = ", ".join(f"{times}{TIMES}{text}" if times > 1 else text for times, text in _runs(inside))
    return type(leaf).__name__ + (f": conv {kernels}" if kernels else "")


def trace(network: nn.Module, *shapes: tuple[int, ...], opened: tuple[type, ...] = ()) -> list[Node]:
    """The nodes of a network in the order they are made; the last stands for its output and makes nothing.

    shapes: of its inputs, with the batch. Each module that the network calls is one node, except those of the types
    ``opened``, whose inside is shown too. The network is copied and not changed.
    """
    network = copy.deepcopy(network).to("meta").eval()
    recorder = _Recorder(network, opened)
    inputs = [torch.zeros(shape, device="meta") for shape in shapes]
    for name, tensor in zip(inspect.signature(network.forward).parameters, inputs):
        recorder.record(Node("input", "", (name,), (), tuple(tensor.shape[1:])), tensor)
    with torch.no_grad(), recorder:
        output = network(*inputs)
    return [*recorder.nodes, Node("output", "", ("output",), (recorder.made_by[id(output)],), tuple(output.shape[1:]))]


class _Recorder(TorchFunctionMode):
    """Writes down nodes while the network runs."""

    def __init__(self, network: nn.Module, opened: tuple[type, ...]):
        super().__init__()
        self.parameters = {id(p): name for name, p in network.named_parameters()}
        self.nodes: list[Node] = []
        self.made_by: dict[int, int] = {}               # id of a tensor -> index of its node
        self.turned: dict[int, bool] = {}               # id of a tensor -> whether it is its node's map transposed
        self.version: dict[int, int] = {}               # id of a tensor -> how often it had been written to
        self.alive: list[Tensor] = []                   # so that no id is used twice
        self.uncounted = {module: count_parameters(module) for module in network.modules()}
        self.path: list[str] = []                       # of the modules that are running
        self.boxed = 0                                  # how many of them are not looked into
        for name, module in network.named_modules():
            closed = module is not network and not isinstance(module, opened)
            module.register_forward_pre_hook(lambda *_, name=name, closed=closed: self.enter(name, closed))
            module.register_forward_hook(
                lambda module, inputs, output, closed=closed: self.leave(module, inputs, output, closed))

    def enter(self, name: str, closed: bool) -> None:
        self.path.append(name)
        self.boxed += closed

    def leave(self, module: nn.Module, inputs: tuple, output: object, closed: bool) -> None:
        path = self.path.pop()
        self.boxed -= closed
        made = self.new(output)
        if closed and not self.boxed and made:                          # an Identity makes nothing
            count, self.uncounted[module] = self.uncounted[module], 0
            self.record(Node("module", path, describe(module), self.sources(inputs), tuple(made[0].shape[1:]), count), *made)

    def new(self, output: object) -> list[Tensor]:
        """The tensors in an output that no node has made, or that were written to since."""
        made = output if isinstance(output, list | tuple) else [output]
        return [t for t in made if isinstance(t, Tensor) and self.version.get(id(t)) != t._version]

    def record(self, node: Node, *made: Tensor) -> None:
        self.nodes.append(node)
        for tensor in made:
            self.follow(tensor, len(self.nodes) - 1)

    def follow(self, tensor: Tensor, index: int, turned: bool = False) -> None:
        self.alive.append(tensor)
        self.made_by[id(tensor)], self.turned[id(tensor)], self.version[id(tensor)] = index, turned, tensor._version

    def found(self, arguments: object) -> Iterator[Tensor]:
        """The tensors in arguments that come from a node; a parameter used as it is becomes a node."""
        if isinstance(arguments, Tensor):
            if id(arguments) in self.parameters and id(arguments) not in self.made_by:
                name = self.parameters[id(arguments)]
                self.record(Node("parameter", name, (symbol(name),), (), tuple(arguments.shape), arguments.numel()), arguments)
            if id(arguments) in self.made_by:
                yield arguments
        elif isinstance(arguments, list | tuple):
            for argument in arguments:
                yield from self.found(argument)

    def sources(self, arguments: object) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.made_by[id(t)] for t in self.found(arguments)))

    def name(self, tensor: Tensor, turned: bool = False) -> str:
        """What a map, or its transpose, is called in formulas: its input, parameter, module or function."""
        node = self.nodes[self.made_by[id(tensor)]]
        text = node.path.rpartition(".")[2] if node.kind == "module" else node.lines[0]
        return text + ("ᵀ" if self.turned[id(tensor)] ^ turned else "")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        arguments = [] if self.boxed else list(self.found([*args, *(kwargs or {}).values()]))
        sources = tuple(dict.fromkeys(self.made_by[id(t)] for t in arguments))
        output = function(*args, **(kwargs or {}))
        made = self.new(output) if arguments else []
        name = function.__name__.strip("_")
        if made and name == "unbind":
            for i, part in enumerate(made, 1):
                line = self.name(arguments[0]) + str(i).translate(SUBSCRIPTS)
                self.record(Node("function", self.path[-1], (line,), sources, tuple(part.shape)), part)
        elif made and name in VIEWS:
            self.follow(made[0], sources[0], self.turned[id(arguments[0])] ^ _turns(function, args))
        elif made:
            node = Node("function", self.path[-1], self.formula(name, arguments), sources, tuple(made[0].shape[1:]))
            self.record(node, *made)
        return output

    def formula(self, name: str, arguments: list[Tensor]) -> tuple[str, ...]:
        match name:
            case "matmul":
                return (" · ".join(map(self.name, arguments)),)
            case "scaled_dot_product_attention":
                query, key, value = arguments[:3]
                return (f"softmax({self.name(query)} · {self.name(key, turned=True)}) · {self.name(value)}",
                        f"{query.shape[-2]} × {key.shape[-2]} positions,", "never stored")
        return (SYMBOLS.get(name, name),)


def _turns(function: Callable, args: tuple) -> bool:
    """Whether a view swaps rows and columns: the properties ``mT`` and ``T``, or ``transpose`` of the last two axes."""
    if function.__name__ == "transpose":
        axes = args[0].dim()
        return {a % axes for a in args[1:3]} == {axes - 1, axes - 2}
    return function in (Tensor.mT.__get__, Tensor.T.__get__)
