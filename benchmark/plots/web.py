"""Self-contained web pages, rendered from the jinja2 templates, style sheets and scripts in a package's `assets`.

A package keeps these files in `<package>/assets`, next to the modules that use them. A template extends `page.html.j2`
(in `benchmark/plots/assets`), which holds the document, the content security policy and the shared style sheet:

    {% extends "page.html.j2" %}
    {% set title = "Leaderboards" %}
    {% set styles = ["leaderboard.css"] %}      optional; names of style sheets in `assets`
    {% set script = "leaderboard.js" %}         optional; the policy admits only this script, by its hash
    {% block style %}...{% endblock %}          optional; more CSS
    {% block body %}...{% endblock %}

Values are escaped, an undefined name is an error, and `asset("name")` inserts a file of `assets` verbatim.
"""

import base64
import hashlib
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_SHARED = "benchmark.plots"


def render(package: str, template: str, /, **context: object) -> str:
    """Render a template of a package.

    Args:
        package: The package whose `assets` folder holds the template, such as "benchmark.results".
        template: File name of the template, such as "leaderboard.html.j2".
        context: The variables of the template. Functions may be among them.
    """
    return _environment(package).get_template(template).render(context)


def read_asset(package: str, name: str) -> str:
    """Return the text of a file in the `assets` of a package, or in the shared ones."""
    environment = _environment(package)
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def script_hash(script: str) -> str:
    """Return the hash by which a content security policy admits an inline script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, "assets") for name in (package, _SHARED)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {
        "asset": lambda name: Markup(read_asset(package, name)),  # our own files: no text of a user is in them
        "script_hash": script_hash,
    }
    return environment
