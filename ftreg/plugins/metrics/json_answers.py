"""JSON: whether answers can be parsed, and match a schema."""

from __future__ import annotations

import json
from array import array
from typing import Any, NoReturn, cast

from ftreg.plugin import InputError, MetricJob, Scores
from ftreg.plugins.metrics.settings import JsonConfig


class NotJson(ValueError):
    """A text is not JSON."""


def json_answers(job: MetricJob) -> Scores:
    """Return the share of answers that are JSON (RFC 8259), and of those that match the schema, if there is one.

    The whole answer has to be JSON: what a program that parses it would accept. Other documents that the schema refers
    to are not fetched.

    Raises:
        InputError: The schema refers to another document.
    """
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    schema = cast(JsonConfig, job.config).schema_
    validator = None if schema is None else validator_for(schema)(schema, registry=Registry())
    valid, matching = array("d"), array("d")
    for one in job.answers:
        is_valid = matches = False
        try:
            value = parse(one.answer)
            is_valid = True
            matches = validator is not None and validator.is_valid(value)
        except NotJson:
            pass
        except Unresolvable as error:
            raise InputError(f"the schema refers to {error.ref}, which it does not contain") from None
        valid.append(is_valid)
        matching.append(matches)
    return Scores.of_examples({"valid": valid} if validator is None else {"valid": valid, "schema_match": matching})


def parse(text: str) -> Any:
    """Parse JSON strictly, so without NaN and Infinity; raise ``NotJson`` if it is something else."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from None


def _refuse(constant: str) -> NoReturn:
    raise NotJson(f"{constant} is not JSON")
