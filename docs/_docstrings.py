"""How docstrings are read for the reference: roles, doctests and ruled tables as code, square brackets as they are."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]*)`")
RULE = re.compile(r"=+( +=+)+ *")


def as_markdown(text: str, *, module: bool = False) -> str:
    """A docstring that Markdown does not misread.

    Args:
        text: cleaned of its common indentation.
        module: whether it is a module's, whose indented lines are formulas and not descriptions of arguments.

    Returns:
        The same text: Sphinx roles are code, doctests and ruled tables at the margin are code blocks, ``a[i][j]`` is no link.
    """
    lines: list[str] = []
    doctest = table = False
    for line in ROLE.sub(r"`\1`", text).splitlines():
        rule = RULE.fullmatch(line) is not None
        begins = (rule and not table) or (line.startswith(">>>") and not doctest)
        if begins and lines and lines[-1].strip():
            lines.append("")
        doctest = line.startswith(">>>") or (doctest and bool(line.strip()))
        table = (table or rule) and bool(line.strip())
        if doctest or table:
            line = f"    {line}"
        elif not (module and line.startswith("    ")):
            line = line.replace("][", "]\\[")
        lines.append(line)
    return "\n".join(lines)


class Readable(griffe.Extension):
    """Applied to every docstring that mkdocstrings loads."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        """Rewrite the docstring in memory."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, module=obj.is_module)
