"""What options of a vLLM accept, from its sources, beside what it says itself."""

import importlib.util
import subprocess
import sys

import pytest

from dsa_doctor.compat.choices import attention_backends, installed_sources, kv_cache_dtypes
from dsa_doctor.compat.sources import SourceTree


def _tree(tmp_path, module, text):
    file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return SourceTree(tmp_path)


def test_choices_are_read_from_source(tmp_path):
    _tree(tmp_path, "vllm.config.cache", 'import x\nCacheDType = Literal["auto", "fp8"]\nOther = ["no"]\n')
    sources = _tree(
        tmp_path,
        "vllm.v1.attention.backends.registry",
        'class Meta: A = 1\nclass AttentionBackendEnum(Enum):\n    """Doc."""\n    FLASH = "a.b"\n    CUSTOM = ""\n'
        "    def get(self): LOCAL = 1\n",
    )
    assert kv_cache_dtypes(sources) == ("auto", "fp8")
    assert attention_backends(sources) == ("FLASH", "CUSTOM")


@pytest.mark.parametrize("text", ["", "CacheDType = (", "CacheDType = compute()"])
def test_what_is_not_found_is_empty(tmp_path, text):
    sources = _tree(tmp_path, "vllm.config.cache", text)
    assert kv_cache_dtypes(sources) == ()
    assert attention_backends(sources) == ()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM: pip install -e '.[vllm,test]'")
def test_they_are_what_vllm_says_itself():
    code = (
        "from typing import get_args\n"
        "from vllm.config.cache import CacheDType\n"
        "from vllm.v1.attention.backends.registry import AttentionBackendEnum\n"
        "print(*get_args(CacheDType)); print(*AttentionBackendEnum.__members__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    dtypes, backends = done.stdout.splitlines()[-2:]
    sources = installed_sources()
    assert set(kv_cache_dtypes(sources)) == set(dtypes.split())
    assert set(attention_backends(sources)) >= set(backends.split())
