"""Model flags from the public vLLM recipes (https://github.com/vllm-project/recipes), pinned here.

Taken are facts about a model (its parsers, its chat template's content format); not taken are trust_remote_code, which
these architectures do not need and dsa-doctor never sets, and flags for other hardware.
"""

from dataclasses import dataclass, replace

from dsa_doctor.catalog.geometry import ModelGeometry


@dataclass(frozen=True)
class RecipeFlag:
    """One flag of a recipe: option, value (None for a switch) and why."""

    option: str
    value: str | None
    why: str


@dataclass(frozen=True)
class Recipe:
    """The flags of one recipe.

    Attributes:
        names: catalog names that it covers, without the suffix of the quantisation.
        path: file in the repository.
        commit: the version that was read.
        flags: what is taken from it.
    """

    names: tuple[str, ...]
    path: str
    commit: str
    flags: tuple[RecipeFlag, ...]

    @property
    def source(self) -> str:
        """Return where the flags come from, for the table."""
        return f"recipe {self.path.removeprefix('models/').removesuffix('.yaml')} @ {self.commit[:7]}"


_GLM_TOOLS = (
    RecipeFlag("--tool-call-parser", "glm47", "the format in which the model calls tools"),
    RecipeFlag("--enable-auto-tool-choice", None, "lets the model decide to call a tool"),
)
_GLM_REASONING = RecipeFlag("--reasoning-parser", "glm45", "separates the thinking from the answer")
_STRING_CONTENT = RecipeFlag("--chat-template-content-format", "string", "the chat template takes plain text")

_V4 = (
    RecipeFlag("--tokenizer-mode", "deepseek_v4", "the model's own chat format"),
    RecipeFlag("--tool-call-parser", "deepseek_v4", "the format in which the model calls tools"),
    RecipeFlag("--enable-auto-tool-choice", None, "lets the model decide to call a tool"),
    RecipeFlag("--reasoning-parser", "deepseek_v4", "separates the thinking from the answer"),
)

_V41 = tuple(replace(flag, value=flag.value and "deepseek_v41") for flag in _V4)

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        ("GLM-5",),
        "models/zai-org/GLM-5.yaml",
        "03927c932dcd5257ee902711c29a847053e92234",
        (*_GLM_TOOLS, _GLM_REASONING, _STRING_CONTENT),
    ),
    Recipe(
        ("GLM-5.1",),
        "models/zai-org/GLM-5.1.yaml",
        "0ed460b14c69aa480833be1a2e08d45bc65fab58",
        (
            *_GLM_TOOLS,
            RecipeFlag("--reasoning-parser", "glm47", "separates the thinking from the answer (vLLM 0.24 and later)"),
            _STRING_CONTENT,
        ),
    ),
    Recipe(
        ("GLM-5.2",),
        "models/zai-org/GLM-5.2.yaml",
        "06880137c9e62c1ffb64ef7f5f576b50ccbeeded",
        (*_GLM_TOOLS, _GLM_REASONING),
    ),
    Recipe(
        ("DeepSeek-V3.2", "DeepSeek-V3.2-Exp"),
        "models/deepseek-ai/DeepSeek-V3.2.yaml",
        "00a8aa9a23e924b5f38f143bd3b151d361190388",
        (
            RecipeFlag("--tokenizer-mode", "deepseek_v32", "the model's own chat format"),
            RecipeFlag("--tool-call-parser", "deepseek_v32", "the format in which the model calls tools"),
            RecipeFlag("--enable-auto-tool-choice", None, "lets the model decide to call a tool"),
            RecipeFlag("--reasoning-parser", "deepseek_v3", "separates the thinking from the answer"),
        ),
    ),
    Recipe(
        ("DeepSeek-V4-Flash", "DeepSeek-V4-Flash-0731"),
        "models/deepseek-ai/DeepSeek-V4-Flash.yaml",
        "030367e7d409a1cef22270f8d8afbb39bd804eb9",
        _V4,
    ),
    Recipe(
        ("DeepSeek-V4-Pro", "DeepSeek-V4-Pro-0813"),
        "models/deepseek-ai/DeepSeek-V4-Pro.yaml",
        "ec99fcc602c8b729d0d9e826354762a1ce6d5768",
        _V4,
    ),
    Recipe(
        ("DeepSeek-V4.1-Flash",),
        "models/deepseek-ai/DeepSeek-V4.1-Flash.yaml",
        "01b04887fd36aba27e4347c2e3b64b8e2e347c7d",
        _V41,
    ),
)

_SUFFIXES = ("-fp8", "-nvfp4", "-awq", "-int4", "-bf16", "-mxfp4")


def recipe_for(model: ModelGeometry) -> Recipe | None:
    """Return the recipe of a model by its name or Hub id, whatever its quantisation, or None."""
    for text in (model.name, model.hub_id or ""):
        name = text.rpartition("/")[2].lower()
        for suffix in _SUFFIXES:
            name = name.removesuffix(suffix)
        for recipe in RECIPES:
            if name in {one.lower() for one in recipe.names}:
                return recipe
    return None
