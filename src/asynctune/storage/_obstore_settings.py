"""From ``storage_options`` and the environment to what obstore's client is built with.

obstore knows an endpoint under several names. One that it cannot use makes it give up in the midst of a
request, or stands in its errors with all that is in it. So whatever names a server is looked at here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from asynctune._checks import safe_repr
from asynctune.errors import ConfigError
from asynctune.secret import Secret


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the endpoint of one kind of store is called.

    Args:
        option: What we call it when we tell obstore.
        prefix: Of its environment variables.
        options: All names that it may have among the options, in lower case.
        variables: All names of variables, in lower case; the first that is set counts.
        above: The variable that obstore takes even if there is an option.
    """

    option: str
    prefix: str
    options: tuple[str, ...]
    variables: tuple[str, ...]
    above: str = ""


_S3 = _Kind(
    "endpoint",
    "AWS_",
    (
        "endpoint", "endpoint_url", "endpoint_url_s3",
        "aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3",
    ),
    ("aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"),
    "aws_endpoint_url_s3",
)  # fmt: skip
_GS = _Kind("base_url", "GOOGLE_", ("base_url", "google_base_url"), ("google_base_url",))
_AZURE = _Kind(
    "endpoint",
    "AZURE_",
    ("endpoint", "azure_endpoint", "azure_storage_endpoint"),
    ("azure_storage_endpoint", "azure_endpoint"),
)
_KINDS = {"s3": _S3, "s3a": _S3, "gs": _GS}
_ALLOW_HTTP = ("allow_http", "aws_allow_http", "azure_allow_http", "google_allow_http")


@dataclass(frozen=True, slots=True)
class Settings:
    """What obstore is given, apart from limits of time.

    Args:
        config: The configuration of the store, with the endpoint under one name.
        client: That of the HTTP client.
        others: What is an argument of its own.
    """

    config: dict[str, Any]
    client: dict[str, Any]
    others: dict[str, Any]


def settings_of(
    scheme: str, options: Mapping[str, Any], environment: Mapping[str, str]
) -> Settings:
    """Look at the options of a store.

    Args:
        scheme: Of the bucket's URL.
        options: As they were given. A :class:`~asynctune.Secret` that is not resolved yet is let pass.
        environment: The variables to look at beside them.

    Raises:
        ConfigError: Something does not fit; the message names it, without what may be secret.
    """
    kind = _KINDS.get(scheme, _AZURE)
    config = dict(options)
    given = config.pop("client_options", None)
    if not isinstance(given, Mapping | None) or not all(
        isinstance(name, str) for name in given or ()
    ):
        raise ConfigError(
            f"client_options in storage_options is {safe_repr(type(given).__name__)}; a dict of options "
            "of the HTTP client is wanted, such as {'proxy_url': '...'}"
        )  # fmt: skip
    client = dict(given or {})
    others = {name: config.pop(name) for name in ("credential_provider",) if name in config}
    for name in [name for name in config if str(name).lower() in _ALLOW_HTTP]:
        client.setdefault("allow_http", config.pop(name))
    endpoint = _endpoint(kind, config, environment)
    if endpoint is not None:
        config[kind.option] = endpoint
        if str(endpoint).lower().startswith("http://"):  # somebody has said so
            client.setdefault("allow_http", True)
    return Settings(config, client, others)


def _endpoint(kind: _Kind, config: dict[str, Any], environment: Mapping[str, str]) -> Any:
    """Take the endpoint out of the options, or find it in the environment; None if there is none."""
    names = [name for name in config if str(name).lower() in kind.options]
    if len(names) > 1:
        raise ConfigError(
            f"storage_options has {names[0]!r} and {names[1]!r}, two names of one thing; give one"
        )
    variables = {
        name.lower(): name
        for name in environment
        if name.startswith(kind.prefix) and name.lower() in kind.variables
    }
    above = variables.get(kind.above)
    if names:
        endpoint = config.pop(names[0])
        _check(f"{names[0]} in storage_options", endpoint)
        if above is not None and environment[above] != endpoint:
            raise ConfigError(
                f"storage_options has {names[0]!r}, and the environment variable {above} names another "
                "server and would win; unset it, or leave out the option"
            )
        return endpoint
    for known in kind.variables:
        if known in variables:
            endpoint = environment[variables[known]]
            _check(f"the environment variable {variables[known]}", endpoint)
            return endpoint
    return None


def _check(name: str, endpoint: Any) -> None:
    """Refuse an endpoint that obstore could make nothing of, or that has what should not be shown."""
    if isinstance(endpoint, Secret):  # it is looked at when it is resolved
        return
    if not isinstance(endpoint, str):
        raise ConfigError(
            f"{name} is {safe_repr(endpoint)}; a URL such as 'https://host' is wanted"
        )
    if "@" in endpoint:
        raise ConfigError(f"{name} has a user or password in it; give keys as options of their own")
    if not endpoint.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"{name} is {safe_repr(endpoint)}; it has to begin with http:// or https://, as in "
            "'http://127.0.0.1:8333'"
        )
    try:
        parts = urlsplit(endpoint)
        whole = bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:  # an address or a port that is none
        whole = False
    if not whole or not endpoint.isprintable() or " " in endpoint:
        raise ConfigError(
            f"{name} is {safe_repr(endpoint)}, which is no URL of a server; one such as 'https://host', "
            "'http://host:port' or 'http://[::1]:port' is wanted"
        )
