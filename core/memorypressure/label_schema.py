"""The shape of a Kubernetes label selector, and what Kubernetes takes as names, label keys and label values."""

import re

from memorypressure.schema import ListOf, Member, Object, Rule, Text, TextMap, one_of
from memorypressure.spec_values import SelectorOperator

_LABEL_NAME = re.compile("([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)


def is_subdomain(text: str) -> bool:
    """Whether it is an RFC 1123 subdomain: what Kubernetes takes as the name of an object."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether Kubernetes takes it as a label's key: a name, optionally behind a DNS subdomain and a slash."""
    prefix, slash, name = text.rpartition("/")
    return (not slash or is_subdomain(prefix)) and len(name) <= 63 and _LABEL_NAME.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Whether Kubernetes takes it as a label's value."""
    return not text or (len(text) <= 63 and _LABEL_NAME.fullmatch(text) is not None)


LABEL_SELECTOR = Object(
    {
        "matchLabels": Member(
            TextMap(
                32,
                Text(63),
                (
                    Rule(
                        "every key must be a label key such as pool or example.com/pool, and every value a label value",
                        lambda labels: all(is_label_key(key) and is_label_value(labels[key]) for key in labels),
                    ),
                ),
            )
        ),
        "matchExpressions": Member(
            ListOf(
                Object(
                    {
                        "key": Member(Text(317, min_length=1), required=True),
                        "operator": Member(one_of(SelectorOperator), required=True),
                        "values": Member(ListOf(Text(63), 64)),
                    },
                    (
                        Rule(
                            "key must be a label key such as pool or example.com/pool",
                            lambda expression: is_label_key(expression["key"]),
                            "key",
                            ("key",),
                        ),
                        Rule(
                            "values go with In and NotIn, and only with them",
                            lambda expression: (
                                (expression["operator"] in (SelectorOperator.IN, SelectorOperator.NOT_IN))
                                == bool(expression.get("values"))
                            ),
                            "values",
                            ("operator", "values"),
                        ),
                        Rule(
                            "every value must be a label value: at most 63 letters, digits, '-', '_' or '.'",
                            lambda expression: all(map(is_label_value, expression.get("values", ()))),
                            "values",
                            ("values",),
                        ),
                    ),
                ),
                32,
            )
        ),
    }
)
