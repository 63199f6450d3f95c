"""What itkwidgets fetches from public hosts at run time, as pinned npm packages, and where it must look
instead.

itkwidgets draws with programs in the browser. The JupyterLab extension that starts them, as its authors
publish it, loads each from a public address when a notebook opens; on a closed network the viewer stays
blank. `installer.py` puts the same programs beside the extension and makes the changes listed here. Only data
stands in this file.
"""

import json
from dataclasses import dataclass

from compendium.view.preview import LABEL_COLOURS

EXTENSION, EXTENSION_VERSION = "imjoy-jupyterlab-extension", "0.2.6"
"""The JupyterLab extension that itkwidgets draws through; the changes below are known to fit this version
only."""
FOLDER = "magunet-viewer"
"""In the extension's folder; holds all that is added to it."""
REMOTE_ENTRY = "remoteEntry.8a820d73fbfec0ca4de7.js"
"""The extension's first file, which its package.json names."""


@dataclass(frozen=True)
class Package:
    """An npm package, its hash as the registry states it, and which of its files are kept, by the start of
    their path.

    A file ``dist/a.js`` is kept as ``<folder>/a.js``. ``leave`` takes precedence over ``keep``.
    """

    name: str
    version: str
    integrity: str
    folder: str
    keep: tuple[str, ...] = ("dist/",)
    leave: tuple[str, ...] = ()

    @property
    def archive(self) -> str:
        """The file that ``npm pack`` makes."""
        return f"{self.name}-{self.version}.tgz"


PACKAGES = (
    Package("vue", "2.6.10", "sha512-ImThpeNU9HbdZL3utgMCq0oiMzAkt1mcgy3/E6zWC/G6AaQoeuFdsl9nDhTDU3X1R6FK7nsIUuRACVcjI+A2GQ==",
            "vue", ("dist/vue.min.js",)),
    Package("vue-js-modal", "1.3.35",
            "sha512-DKtxUCW/oprM/ndn9h/cnVgsmqjQ/ARy5rH4q/11Pas04og2td+sltl91H/rlwXTwJIqWyt+lJizK5o4ErjWIQ==",
            "vue-js-modal", ("dist/index.js", "dist/styles.css")),
    Package("imjoy-core", "0.14.5",
            "sha512-G0ybhLq57vOSM+4DhJ7A/3WSjJdbzk+WoEqg4+c5clkRhLOYY5VfI6oJ4MI664ZsVVgIinswsEJWbHAWQOBxFg==",
            "imjoy-core", ("dist/imjoy-core.min.js", "dist/imjoy-loader.js"), ("dist/imjoy-core.min.js.map",)),
    # 0.5.9 exactly: the viewer's page and the extension speak its protocol
    Package("imjoy-rpc", "0.5.9",
            "sha512-wjK01PPTboNh4nas2nlxB8PXpSToR6vOFnjBeIJ4LiMU5pRi7VIcTSsvO0WQapxyiFkA1fkm2s9HsZ2D2mHj0Q==",
            "imjoy-rpc", ("dist/imjoy-rpc.min.js",), ("dist/imjoy-rpc.min.js.map",)),
    # readers of files and a second build of the same program; the notebook sends voxels
    Package("itk-vtk-viewer", "14.51.0",
            "sha512-i1H0PfekLdCfL45lZ96aWCoh4thzxeexiGJ3NYC9euF1WefXW0P1JijBLIJfrDBvp5fhjncj/EEnIW1auBh+zw==",
            "itk-vtk-viewer", ("dist/",),
            ("dist/itk/image-io/", "dist/itk/mesh-io/", "dist/itk/web-workers/bundles/", "dist/itkVtkViewerCDN",
             "dist/124.itkVtkViewerCDN", "dist/serviceWorker", "dist/workbox",
             *(f"dist/itk/pipeline/{name}.{end}" for end in ("js", "wasm")
               for name in ("Compare", "Downsample", "DownsampleLabelImage", "ResampleLabelImage")))),
    Package("itk-viewer-bootstrap-ui", "0.30.0",
            "sha512-JfXAeCEgllRblolFwB4HaPQp+AyPzUt8s3g74LVnWLkvOyng4p24aO2Sjsk6ZIkWyZjdfZWAtvrdScKh/RPkKw==",
            "bootstrap-ui", ("dist/bootstrapUIMachineOptions.js.es.js",)),
)

STUBS = {"vue-window.js": "window.VueWindow = {install() {}};\n"}
"""@oeway/vue-window left the registry; the extension loads it and never makes one of its windows."""


@dataclass(frozen=True)
class Change:
    """Text of a file that occurs exactly once, and what stands there instead."""

    file: str
    old: str
    new: str


_PALETTE = [round(byte / 255, 4) for colour in LABEL_COLOURS.values() for byte in bytes.fromhex(colour[1:])]
_MAIN = "lib_index_js.434a16a9fda98e7fb04f.js"
_LOADER = ("vendors-node_modules_imjoy-core_dist_imjoy-loader_js-node_modules_imjoy-core_dist_imjoy-rpc_js."
           "fa1a9cd9c57812bbe9b2.js")
_PAGE, _CORE, _VIEWER = "itk-vtk-viewer/index.html", "imjoy-core/imjoy-core.min.js", "itk-vtk-viewer/itkVtkViewer.js"
_PLUGINS = "https://imjoy-team.github.io/"

CHANGES = (
    # the extension says where it was loaded from, and points the viewer's window and its controls there
    Change(_MAIN, "        this.baseUrl = jupyterBaseUrl;",
           "        this.baseUrl = jupyterBaseUrl;\n        const HERE = window.magunetViewer = __webpack_require__.p;"),
    Change(_MAIN, "process_url_query: true,", "process_url_query: false, base_url: HERE + 'imjoy-core/',"),
    Change(_MAIN, "                async createWindow(_plugin, w, extra_config) {",
           "                async createWindow(_plugin, w, extra_config) {\n"
           "                    if (w && w.type === 'itk-vtk-viewer') {\n"
           "                        w.src = HERE + 'itk-vtk-viewer/index.html';\n"
           "                        const ui = w.config && w.config.uiMachineOptions;\n"
           "                        if (ui) ui.href = HERE + 'bootstrap-ui/bootstrapUIMachineOptions.js.es.js';\n"
           "                    }"),
    Change(_MAIN, '<img src="https://imjoy.io/static/img/imjoy-logo-black.svg" style="height: 17px;">', "<b>3D</b>"),
    # what that loads first
    Change(_LOADER, r"\"https://cdn.jsdelivr.net/npm/vue@2.6.10/dist/vue.min.js\"", "window.magunetViewer + 'vue/vue.min.js'"),
    Change(_LOADER, rf"\"{_PLUGINS}vue-js-modal/index.js\"", "window.magunetViewer + 'vue-js-modal/index.js'"),
    Change(_LOADER, rf"\"{_PLUGINS}vue-js-modal/styles.css\"", "window.magunetViewer + 'vue-js-modal/styles.css'"),
    Change(_LOADER, r"\"https://cdn.jsdelivr.net/npm/@oeway/vue-window@2.4.1-a/lib/index.js\"",
           "window.magunetViewer + 'vue-window.js'"),
    # plugins that it would start by itself
    Change(_CORE, f'{{"BrowserFS":{{"src":"{_PLUGINS}imjoy-core-plugins/BrowserFS.imjoy.html","startup":false}},'
                  f'"Jupyter-Engine-Manager":{{"src":"{_PLUGINS}jupyter-engine-manager/Jupyter-Engine-Manager.imjoy.html",'
                  f'"startup":true}},"WebPythonWorker":{{"src":"{_PLUGINS}imjoy-core-plugins/WebPythonWorker.imjoy.html",'
                  '"startup":true}}', "{}"),
    Change(_CORE, "`https://cdn.jsdelivr.net/npm/imjoy-rpc@${config.version}/dist/`", "window.magunetViewer + 'imjoy-rpc/'"),
    Change(_CORE, "`https://cdn.jsdelivr.net/npm/imjoy-rpc@${version}/dist/`", "window.magunetViewer + 'imjoy-rpc/'"),
    # the viewer's page
    Change(_PAGE, "https://lib.imjoy.io/imjoy-loader.js", "../imjoy-core/imjoy-loader.js"),
    Change(_PAGE, "api_version: '0.2.3'",
           "api_version: '0.2.3', base_url: new URL('../imjoy-rpc/', document.location.href).href"),
    Change(_PAGE, "if ('serviceWorker' in navigator && ", "if (false && "),
    # a label's colour by its number, from our palette; the viewer goes by rank, so an absent label would change the others
    Change(_VIEWER, "const n=3*(e-a),r=o.slice(n,n+3);",
           f"const n=3*(t[e]-1),r=({json.dumps(_PALETTE)}).slice(n,n+3);r.length||r.push(...o.slice(n,n+3));"),
    # a label as it is; between 0 and 3 the viewer would see a rim of 1 and 2
    Change(_VIEWER, r"  vec4 tmp = texture(texture1, pos);\n", r"  vec4 tmp = texture(texture1, pos);\n"
           r"#if vtkNumComponents == 2\n  vec3 voxels = vec3(textureSize(texture1, 0));\n"
           r"  tmp.g = texture(texture1, (floor(pos * voxels) + 0.5) / voxels).g;\n#endif\n"),
    # light that adds up to 1, in both places that set it: more would wash the labels' colours out
    Change(_VIEWER, "o.setAmbient(.4),o.setDiffuse(1),o.setSpecular(.4)", "o.setAmbient(.3),o.setDiffuse(.7),o.setSpecular(.05)"),
    Change(_VIEWER, "(t.setDiffuse(1),t.setAmbient(.4))", "(t.setDiffuse(.7),t.setAmbient(.3))"),
)
