"""What a site may be called in a secure sum.

Promises
- One pattern, here: the papers of a sum refuse every other name (``shared.secure.papers``), and ``require_name`` judges
  as they do, because it asks the same validator. So a name that can make no paper is refused before there is a sum.
- All names of a roster are such names (``shared.trust.documents.NAME``). These are more: a simulation calls its sites
  as their manifest does, ``busbra_ge_logiq5``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from shared.errors import SiteDataError

Name = Annotated[str, Field(pattern=r"^\w[\w .-]{0,62}$")]
"""Of a site."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def require_name(name: str, where: str = "the site's name") -> None:
    """Return where a site called ``name`` can take part in secure sums; raise ``SiteDataError`` ("site-name").

    ``where`` says which name it is: what stands there in place of one is not repeated.
    """
    try:
        _NAME.validate_python(name, strict=True)
    except ValidationError:
        raise SiteDataError(
            f"{where}, of {len(name)} characters, is none that can stand in a secure sum",
            hint="letters, digits, _, dots, hyphens and spaces, 63 at most, the first of them a letter, a digit or _",
            code="site-name",
        ) from None
