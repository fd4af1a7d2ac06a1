"""``docs/reference/templates.md``: what a template sees, from ``rendering.context``, ``Message`` and ``MetricLine``."""

from __future__ import annotations

import inspect
import re
from typing import Any

import msgspec

from service.alerts.messages import message, rendering
from service.alerts.messages.sample import sample_alert
from tools.reference.markdown import code, head, sentence, table

OPENING = """A receiver can name template files: `template` for Slack and webhooks, `text_template` and `html_template` for
e-mail. They are [Jinja2](https://jinja.palletsprojects.com/) templates in a sandbox; `tidewatch check` tries them on a sample.
The output is escaped for HTML and Slack whatever a template does; a webhook template must produce JSON.
An unknown name is an error.

```jinja
{{ title }}
{% for message in messages %}
{{ message.entity }} since {{ message.since }}: {{ message.sentence }}
{% for metric in message.metrics %}  {{ metric.spark }} {{ metric.words }}
{% endfor %}{% endfor %}{% if more %}… and {{ more }} more{% endif %}
```

The examples are those of the message that `tidewatch test-notify` sends."""

NOW_MS = 1_763_769_600_000
FIELD = re.compile(r"^\s+(\w+): [^#=]+?\s+#: (.*)$", re.MULTILINE)
ENTRY = re.compile(r"^\s+\"(\w+)\": .*?#: (.*)$", re.MULTILINE)
# Given to the two templates of an e-mail beside the context (``receivers/email.py``).
EMAIL = {
    "picture": ("the `cid:` address of the chart of the leading metrics; empty when there is no chart", "cid:…"),
    "picture_alt": ("what the chart shows, in words", "…"),
}


def page() -> str:
    """The whole page. Raises ``LookupError`` for a variable without a meaning."""
    firing, _ = sample_alert(NOW_MS)
    seen = rendering.context([firing], "3f9c1a", {}, 10, "https://kibana.example.org/{alert_id}")
    said = dict(ENTRY.findall(inspect.getsource(rendering.context)))
    lines = head("Template variables", OPENING)
    lines += ["## In every template", ""]
    lines += _rows({name: (_meaning(said, name), _shown(one)) for name, one in seen.items()})
    lines += ["## Also in e-mail templates", "", *_rows(EMAIL)]
    lines += ["## Each of `messages`: one alert, the most severe first", "", *_fields(message.Message, seen["messages"][0])]
    lines += ["## Each of `message.metrics`: one metric, the largest share first", ""]
    lines += _fields(message.MetricLine, seen["messages"][0].metrics[0])
    return "\n".join(lines)


def _fields(struct: type[msgspec.Struct], example: msgspec.Struct) -> list[str]:
    said = dict(FIELD.findall(inspect.getsource(struct)))
    return _rows({name: (_meaning(said, name), _shown(getattr(example, name))) for name in struct.__struct_fields__})


def _rows(found: dict[str, tuple[str, str]]) -> list[str]:
    return table(("variable", "meaning", "example"), [(code(name), sentence(said), shown) for name, (said, shown) in found.items()])


def _meaning(said: dict[str, str], name: str) -> str:
    if name not in said:
        raise LookupError(f"The template variable {name!r} has no meaning: write it as a #: comment behind it.")
    return said[name].replace("``", "`")


def _shown(one: Any) -> str:
    if isinstance(one, list | tuple):
        return f"{len(one)} of them, see below"
    return code(str(one)) if one != "" else "(empty)"
