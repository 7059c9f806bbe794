import base64
import hashlib
import re
import sys

import pytest
from jinja2 import UndefinedError

from benchmark.plots.web import render


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The name of a package with a page, a style sheet and a script."""
    (tmp_path / "made_up_pages" / "assets").mkdir(parents=True)
    (tmp_path / "made_up_pages" / "__init__.py").touch()
    assets = tmp_path / "made_up_pages" / "assets"
    (assets / "own.css").write_text("b > i { color: red }\n")
    (assets / "own.js").write_text('if (1 < 2) document.title = "&";\n')
    (assets / "own.html.j2").write_text(
        '{% extends "page.html.j2" %}{% set styles = ["own.css"] %}{% set script = "own.js" %}'
        "{% block body %}<p>{{ name }}</p>{% endblock %}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_up_pages"
    sys.modules.pop("made_up_pages", None)


def test_values_are_escaped_and_assets_are_not(package):
    page = render(package, "own.html.j2", title="A & B", name="<script>alert(1)</script>")
    assert "<title>A &amp; B</title>" in page
    assert "<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>" in page
    assert "b > i { color: red }" in page and ".pale {" in page


def test_policy_admits_only_the_script_of_the_page(package):
    page = render(package, "own.html.j2", title="A", name="B")
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def test_a_page_without_a_script_admits_none():
    page = render("benchmark.plots", "page.html.j2", title="A")
    assert "script" not in page and "default-src 'none'" in page


def test_rejects_an_undefined_name(package):
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        render(package, "own.html.j2", title="A")
