"""What a file of a model family states: the classes of vLLM that serve it, and what their path needs of a GPU."""

from dataclasses import dataclass
from typing import Literal

Needs = Literal["deep_gemm", "e4m3", "backend", "cuda_compiler"]
"""deep_gemm: kernels of DeepGEMM for the GPU. e4m3: an instruction or Triton type for e4m3, from 8.9 on. backend: that
the backend of the attention class that the family picks takes the compute capability. cuda_compiler: nvcc and a C++
compiler where it serves, whatever the GPU."""

TILELANG_MHC = "mixes the residual streams (mHC) by TileLang kernels, which nvcc compiles before they first run"
ATTENTION_CLASS = "attends by a class that it picks without asking vLLM's selector"


@dataclass(frozen=True)
class Need:
    """One step of a family's path that not every GPU can take.

    Attributes:
        layer: the layer that it is reported in.
        place: "module:name" of vLLM's definition that takes the step; a release without it does not take it.
        expects: regular expression that the definition's text matches where it takes the step.
        needs: what the GPU must have, or the machine.
        what: the step, in words that follow "vllm...name".
    """

    layer: Literal["attention", "indexer"]
    place: str
    expects: str
    needs: Needs
    what: str


@dataclass(frozen=True)
class Family:
    """A model family, as vLLM serves it.

    Attributes:
        key: short name; ops of the catalog that belong to it name it.
        title: as its users call it.
        architectures: of config.json.
        drafts: architectures of the models that draft for it (MTP, DSpark).
        model_types: of config.json, where the architecture does not say it.
        picker: "module:function" that picks its attention class; None where vLLM's selector is asked.
        sm120_kernels: FlashInfer's name of its kernels for the family on 12.x; None where they are not judged.
        needs: steps that not every GPU can take, in the order in which a start meets them.
    """

    key: str
    title: str
    architectures: tuple[str, ...]
    drafts: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    picker: str | None = None
    sm120_kernels: str | None = None
    needs: tuple[Need, ...] = ()
