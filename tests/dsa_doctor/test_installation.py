"""Remedies name a command that fits how this dsa-doctor was installed."""

import json

import pytest

from dsa_doctor.installation import installation_of, this_installation

WHEEL = {"url": "file:///home/somebody/dsa_doctor-0.1.0-py3-none-any.whl", "archive_info": {}}
REPOSITORY = {"url": "https://me:secret@host/org/dsa-doctor.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}


@pytest.mark.parametrize(
    ("direct_url", "install"),
    [
        (None, "pip install dsa-doctor "),
        ({"url": "file:///home/somebody/dsa-doctor", "dir_info": {"editable": True}}, "pip install -e . "),
        ({"url": "file:///home/somebody/dsa-doctor", "dir_info": {}}, "pip install -e . "),
        (WHEEL, "pip install dsa_doctor-0.1.0-py3-none-any.whl "),
        (REPOSITORY, "pip install 'dsa-doctor @ git+https://host/org/dsa-doctor.git' "),
        ({}, "pip install -e . "),
        ([], "pip install -e . "),
    ],
)
def test_each_way(direct_url, install):
    found = installation_of(None if direct_url is None else json.dumps(direct_url))
    assert found.install.startswith(install)
    assert not {"somebody", "secret"} & set(" ".join(found).replace("/", " ").replace(":", " ").split())


def test_the_running_one_is_known():
    assert "dsa-doctor" in this_installation().install
