"""Strict schemas of the keys that our files use, for formats whose own schema can't be had here:
Kueue and the Prometheus operator (CRDs), SkyPilot, Compose, Grafana. After their public references;
a key that stands in none of them is a misspelling or wants a line here.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?([numkMGTPE]|[KMGTPE]i)?$"}
DURATION: Schema = {"type": "string", "pattern": r"^(\d+(ms|s|m|h|d|w))+$"}


def strict(required: tuple[str, ...] = (), /, **properties: Schema) -> Schema:
    """An object that has no other keys; a name ends with `_` where Python has the word."""
    named = {name.rstrip("_"): schema for name, schema in properties.items()}
    return {
        "type": "object",
        "properties": named,
        "required": list(required),
        "additionalProperties": False,
    }


def many(item: Schema, least: int = 1) -> Schema:
    return {"type": "array", "items": item, "minItems": least}


def by_name(value: Schema, least: int = 0) -> Schema:
    return {"type": "object", "additionalProperties": value, "minProperties": least}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


METADATA = strict(
    ("name",), name=TEXT, namespace=TEXT, labels=by_name(TEXT), annotations=by_name(TEXT)
)
SELECTOR = strict(
    matchLabels=by_name(TEXT),
    matchExpressions=many(
        strict(
            ("key", "operator"),
            key=TEXT,
            operator=one_of("In", "NotIn", "Exists", "DoesNotExist"),
            values=many(TEXT),
        )
    ),
)


def kubernetes_object(version: str, kind: str, spec: Schema | None) -> Schema:
    parts: dict[str, Schema] = {"apiVersion": {"const": version}, "kind": {"const": kind}}
    parts |= {"metadata": METADATA} | ({"spec": spec} if spec else {})
    return strict(tuple(parts), **parts)


# --- Kueue and the Prometheus operator

RULE = strict(
    ("alert", "expr", "labels", "annotations"),
    alert=TEXT, expr=TEXT, for_=DURATION, labels=by_name(TEXT, 1), annotations=by_name(TEXT, 1),
)  # fmt: skip
GROUPS = many(strict(("name", "rules"), name=TEXT, interval=DURATION, rules=many(RULE)))
_FLAVOR = strict(
    ("name", "resources"),
    name=TEXT,
    resources=many(
        strict(
            ("name", "nominalQuota"),
            name=TEXT,
            nominalQuota=QUANTITY,
            borrowingLimit=QUANTITY,
            lendingLimit=QUANTITY,
        )
    ),
)
_ENDPOINT = strict(
    ("port",),
    port=TEXT, interval=DURATION, path=TEXT, scheme=one_of("http", "https"),
    relabelings=many(
        strict(sourceLabels=many(TEXT), targetLabel=TEXT, regex=TEXT, replacement=TEXT, action=TEXT)
    ),
)  # fmt: skip
KUEUE, OPERATOR = "kueue.x-k8s.io/v1beta1", "monitoring.coreos.com/v1"
ADD_ONS = {
    "ResourceFlavor": kubernetes_object(KUEUE, "ResourceFlavor", None),
    "ClusterQueue": kubernetes_object(
        KUEUE, "ClusterQueue",
        strict(
            ("resourceGroups",),
            namespaceSelector=SELECTOR, cohort=TEXT,
            queueingStrategy=one_of("StrictFIFO", "BestEffortFIFO"),
            resourceGroups=many(
                strict(
                    ("coveredResources", "flavors"),
                    coveredResources=many(TEXT), flavors=many(_FLAVOR),
                )
            ),
        ),
    ),
    "LocalQueue": kubernetes_object(
        KUEUE, "LocalQueue", strict(("clusterQueue",), clusterQueue=TEXT)
    ),
    "PodMonitor": kubernetes_object(
        OPERATOR, "PodMonitor",
        strict(
            ("selector", "podMetricsEndpoints"),
            selector=SELECTOR, jobLabel=TEXT, podMetricsEndpoints=many(_ENDPOINT),
        ),
    ),
    "PrometheusRule": kubernetes_object(
        OPERATOR, "PrometheusRule", strict(("groups",), groups=GROUPS)
    ),
}  # fmt: skip

# --- SkyPilot: https://docs.skypilot.co/en/latest/reference/yaml-spec.html

_AMOUNT: Schema = {"type": ["string", "number"], "pattern": r"^\d+(\.\d+)?\+?$"}
_CODES: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}}
SKYPILOT = strict(
    ("run", "resources"),
    name=TEXT, workdir=TEXT, num_nodes={"type": "integer", "minimum": 1}, setup=TEXT, run=TEXT,
    envs=by_name({"type": ["string", "number", "null"]}),
    secrets=by_name({"type": ["string", "null"]}),
    resources=strict(
        infra=TEXT, accelerators={"anyOf": [TEXT, by_name({"type": "number"}, 1)]}, cpus=_AMOUNT,
        memory=_AMOUNT, instance_type=TEXT, use_spot=FLAG, disk_size=COUNT, image_id=TEXT,
        labels=by_name(TEXT),
        job_recovery=strict(
            strategy=TEXT, max_restarts_on_errors=COUNT, recover_on_exit_codes=_CODES
        ),
    ),
)  # fmt: skip

# --- Compose: https://github.com/compose-spec/compose-spec/blob/main/spec.md

_WORDS: Schema = {"anyOf": [TEXT, many(TEXT)]}
_SERVICE = strict(
    image=TEXT, build=strict(("context",), context=TEXT, dockerfile=TEXT, args=by_name(TEXT)),
    command=_WORDS, entrypoint=_WORDS, environment=by_name({"type": ["string", "null"]}),
    ports=many({"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}),
    volumes=many({"type": "string", "pattern": r"^[\w./-]+:/[\w./-]+(:ro)?$"}),
    depends_on={
        "anyOf": [
            many(TEXT),
            by_name(
                strict(
                    ("condition",),
                    condition=one_of(
                        "service_started", "service_healthy", "service_completed_successfully"
                    ),
                )
            ),
        ]
    },
    healthcheck=strict(
        ("test",), test=many(TEXT), interval=DURATION, timeout=DURATION, start_period=DURATION,
        retries=COUNT,
    ),
    shm_size={"type": "string", "pattern": r"^\d+[kmg]b$"}, stop_grace_period=DURATION,
    ulimits=by_name(COUNT), deploy={"type": "object"}, restart=TEXT,
)  # fmt: skip
COMPOSE = strict(("services",), name=TEXT, services=by_name(_SERVICE, 1), volumes=by_name(strict()))
COMPOSE["patternProperties"] = {"^x-": {}}

# --- Grafana: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/

_SOURCE = strict(("type", "uid"), type_=one_of("prometheus"), uid=TEXT)
_GRID = strict(
    ("x", "y", "w", "h"),
    x={"type": "integer", "minimum": 0, "maximum": 23}, y=COUNT,
    w={"type": "integer", "minimum": 1, "maximum": 24}, h={"type": "integer", "minimum": 1},
)  # fmt: skip
_TARGET = strict(
    ("refId", "expr", "datasource"), refId=TEXT, expr=TEXT, legendFormat=TEXT, datasource=_SOURCE
)
_PANEL = strict(
    ("id", "title", "description", "type", "gridPos", "targets", "datasource"),
    id_=COUNT, title=TEXT, description=TEXT, type_=one_of("stat", "timeseries"), gridPos=_GRID,
    datasource=_SOURCE, targets=many(_TARGET), options={"type": "object"},
    fieldConfig=strict(
        ("defaults", "overrides"),
        defaults=strict(("unit",), unit=TEXT, min_={"type": "number"}), overrides=many({}, 0),
    ),
)  # fmt: skip
_VARIABLE = {
    "type": "object",
    "required": ["name", "type", "query"],
    "properties": {"type": one_of("datasource", "query"), "name": TEXT},
}
DASHBOARD = strict(
    ("uid", "title", "schemaVersion", "panels", "templating"),
    uid=TEXT, title=TEXT, tags=many(TEXT), schemaVersion=COUNT, version=COUNT, editable=FLAG,
    timezone=one_of("utc", "browser"), refresh=DURATION,
    time=strict(("from", "to"), **{"from": TEXT, "to": TEXT}),
    templating=strict(("list",), list_=many(_VARIABLE)), annotations={"type": "object"},
    panels=many(_PANEL),
)  # fmt: skip
