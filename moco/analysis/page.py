"""HTML pages that open without a network: a template of this folder, and plotly's script to go into it."""

from pathlib import Path
from typing import TYPE_CHECKING

from moco.errors import UserError

if TYPE_CHECKING:
    import jinja2


def template(name: str, command: str) -> "tuple[jinja2.Template, str]":
    """The template, which escapes what it is given, and plotly's script.

    Raises:
        UserError: plotly or jinja2, which this command needs, is not installed.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(f"{command} needs plotly and jinja2: pip install plotly jinja2") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,  # code that changes while a page is served does not fit it any more
    )
    return environment.get_template(name), get_plotlyjs()
