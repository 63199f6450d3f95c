"""Prediction by OpenVINO on the CPU: two thirds of the time of torch in float32, for processors without bfloat16."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from magunet.base.device import choose_precision
from magunet.base.errors import InputError, is_out_of_memory
from magunet.predict import Model


class OpenVINONetwork(nn.Module):
    """Stands in for a network when predicting: float32 (1, 1, d, h, w) -> logits (1, 1, d, h, w).

    A network is converted once for each size of window, which takes some seconds. precision: what it computes in.
    Raises InputError when OpenVINO is not installed, or cannot express the network.
    """

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        sys.modules.setdefault("openvino_telemetry", None)              # else converting a network sends a message to its makers
        try:
            import openvino
        except ImportError:
            raise InputError("OpenVINO is not installed; pip install 'magunet[openvino]', or leave out --engine") from None
        self.network, self._openvino, self._compiled = network, openvino, {}
        self._options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY",
                         "INFERENCE_PRECISION_HINT": "bf16" if precision == torch.bfloat16 else "f32"}

    def _convert(self, x: Tensor) -> object:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)              # of one part of torch about another
            try:
                program = torch.export.export(self.network, (torch.zeros(x.shape),))
                model = self._openvino.convert_model(program)
            except Exception as error:                                  # torch and OpenVINO document no common class
                if is_out_of_memory(error):
                    raise
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"OpenVINO cannot run this network ({reason}); leave out --engine") from error
        return self._openvino.Core().compile_model(model, "CPU", self._options)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape not in self._compiled:
            self._compiled[x.shape] = self._convert(x)
        return torch.from_numpy(self._compiled[x.shape](np.ascontiguousarray(x.numpy()))[0])


def with_openvino(model: Model) -> Model:
    """The model with its network run by OpenVINO, on the CPU, in the precision its settings ask for there.

    Raises InputError when OpenVINO is not installed.
    """
    cpu = torch.device("cpu")
    network = model.network.to(cpu, memory_format=torch.contiguous_format)
    replaced = OpenVINONetwork(network, choose_precision(model.settings.precision, cpu))
    return replace(model, network=replaced, device=cpu, precision=torch.float32)
