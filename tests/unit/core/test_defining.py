"""Whether files may define an agent: a *no* is never wrong."""

from __future__ import annotations

import pytest

from torpor.core.defining import may_define_agents


@pytest.mark.parametrize(
    ("files", "may"),
    [
        ({"a.py": "x = 1"}, False),
        ({"a.py": "# /// script\n# [tool.torpor]\n# ///\n# torpor\nprint(1)"}, False),
        ({"a.py": "x = 1", "pyproject.toml": "[tool.torpor]"}, False),
        ({"a.py": "import openai, sys"}, False),
        ({"a.py": "import torpor"}, False),
        ({"a.py": "import torpor, os\nprint(os.path, torpor.step(print))"}, False),
        ({"a.py": '"""torpor.agent is not used."""\nfrom torpor import step'}, False),
        ({"a.py": "import torpor\nprint(1)", "README.md": "torpor agents"}, False),
        ({"a.py": "import torpor\n@torpor.agent\ndef a(): ..."}, True),
        ({"a.py": "import torpor as t\nt.agent"}, True),
        ({"a.py": "import torpor\nx = torpor\nx.step"}, True),
        ({"a.py": "import torpor\ngetattr(torpor, 'ag' + 'ent')"}, True),
        ({"a.py": "import torpor\ntorpor.__dict__"}, True),
        ({"a.py": "from torpor import *"}, True),
        ({"a.py": "from b import t\nx = t", "b.py": "import torpor as t"}, True),
        ({"a.py": "import b\nb.t.step", "b.py": "import torpor as t"}, True),
        ({"a.py": "import sys\nsys.path.append('x.zip')\nimport y"}, True),
        ({"a.py": "import torpor", "b.py": "def"}, True),
        ({"a.py": "import b", "b.abi3.so": "\x7fELF torpor"}, True),
        ({"a.py": "from torpor import agent as work"}, True),
        ({"a.py": "import my_torpor_agents"}, True),
        ({"a.py": "import helper", "helper.py": "import torpor.sdk"}, True),
        ({"a.py": "__import__('torpor').agent(print)"}, True),
        ({"a.py": "exec(open('code.txt').read())", "code.txt": "import torpor"}, True),
    ],
)
def test_files_that_surely_define_no_agent(files: dict[str, str], may: bool) -> None:
    assert may_define_agents({name: text.encode() for name, text in files.items()}) is may
