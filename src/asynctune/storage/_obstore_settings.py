"""Derive the arguments of obstore's client from ``storage_options`` and the environment.

obstore accepts an endpoint under several names. A malformed endpoint makes obstore panic in the middle of a
request, or appears with all its content in obstore's errors. So all endpoints are checked first.
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
class _EndpointNames:
    """The names of the endpoint in one kind of store.

    Args:
        option: The name passed to obstore.
        prefix: The prefix of the store's environment variables.
        options: All names accepted among the options, in lower case.
        variables: All names of environment variables, in lower case; the first one that is set counts.
        override: The variable that obstore prefers even over an option.
    """

    option: str
    prefix: str
    options: tuple[str, ...]
    variables: tuple[str, ...]
    override: str = ""


_S3 = _EndpointNames(
    "endpoint",
    "AWS_",
    (
        "endpoint", "endpoint_url", "endpoint_url_s3",
        "aws_endpoint", "aws_endpoint_url", "aws_endpoint_url_s3",
    ),
    ("aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"),
    "aws_endpoint_url_s3",
)  # fmt: skip
_GS = _EndpointNames("base_url", "GOOGLE_", ("base_url", "google_base_url"), ("google_base_url",))
_AZURE = _EndpointNames(
    "endpoint",
    "AZURE_",
    ("endpoint", "azure_endpoint", "azure_storage_endpoint"),
    ("azure_storage_endpoint", "azure_endpoint"),
)
_NAMES_BY_SCHEME = {"s3": _S3, "s3a": _S3, "gs": _GS}
_ALLOW_HTTP = ("allow_http", "aws_allow_http", "azure_allow_http", "google_allow_http")


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of obstore's client, apart from the limits of time.

    Args:
        config: The configuration of the store, with the endpoint under one name.
        client: The options of the HTTP client.
        arguments: The options that obstore takes as separate arguments.
    """

    config: dict[str, Any]
    client: dict[str, Any]
    arguments: dict[str, Any]


def make_settings(
    scheme: str, options: Mapping[str, Any], environment: Mapping[str, str]
) -> Settings:
    """Check the options of a store and return them as obstore takes them.

    Args:
        scheme: The scheme of the bucket's URL.
        options: The ``storage_options``. A :class:`~asynctune.Secret` that is not resolved yet passes
            unchecked.
        environment: The environment variables to consider too.

    Raises:
        ConfigError: An option or variable does not fit; the message names it, without possible secrets.
    """
    names = _NAMES_BY_SCHEME.get(scheme, _AZURE)
    config = dict(options)
    given = config.pop("client_options", None)
    if not isinstance(given, Mapping | None) or not all(
        isinstance(name, str) for name in given or ()
    ):
        raise ConfigError(
            "client_options in storage_options must be a dict of options of the HTTP client, such as "
            f"{{'proxy_url': '...'}}, got {safe_repr(type(given).__name__)}"
        )  # fmt: skip
    client = dict(given or {})
    arguments = {name: config.pop(name) for name in ("credential_provider",) if name in config}
    for name in [name for name in config if str(name).lower() in _ALLOW_HTTP]:
        client.setdefault("allow_http", config.pop(name))
    endpoint = _pop_endpoint(names, config, environment)
    if endpoint is not None:
        config[names.option] = endpoint
        # obstore refuses plain HTTP by default; an explicit http:// endpoint is permission enough.
        if str(endpoint).lower().startswith("http://"):
            client.setdefault("allow_http", True)
    return Settings(config, client, arguments)


def _pop_endpoint(
    names: _EndpointNames, config: dict[str, Any], environment: Mapping[str, str]
) -> Any:
    """Take the endpoint out of the options, or find it in the environment; None if neither has one."""
    given = [name for name in config if str(name).lower() in names.options]
    if len(given) > 1:
        raise ConfigError(
            f"storage_options must have one name of the endpoint, got {given[0]!r} and {given[1]!r}"
        )
    variables = {
        name.lower(): name
        for name in environment
        if name.startswith(names.prefix) and name.lower() in names.variables
    }
    override = variables.get(names.override)
    if given:
        endpoint = config.pop(given[0])
        _check_endpoint(f"{given[0]} in storage_options", endpoint)
        if override is not None and environment[override] != endpoint:
            raise ConfigError(
                f"storage_options has {given[0]!r}, but the environment variable {override} names another "
                "server and takes precedence; unset the variable, or leave out the option"
            )
        return endpoint
    for variable in names.variables:
        if variable in variables:
            endpoint = environment[variables[variable]]
            _check_endpoint(f"the environment variable {variables[variable]}", endpoint)
            return endpoint
    return None


def _check_endpoint(name: str, endpoint: Any) -> None:
    """Raise ``ConfigError`` for an endpoint that obstore cannot use, or that contains credentials."""
    if isinstance(endpoint, Secret):  # The endpoint is checked when the secret is resolved.
        return
    if not isinstance(endpoint, str):
        raise ConfigError(f"{name} must be a URL such as 'https://host', got {safe_repr(endpoint)}")
    if "@" in endpoint:
        raise ConfigError(
            f"{name} must not contain a user or password; give keys as options of their own"
        )
    if not endpoint.lower().startswith(("http://", "https://")):
        raise ConfigError(
            f"{name} must begin with http:// or https://, as in 'http://127.0.0.1:8333', "
            f"got {safe_repr(endpoint)}"
        )
    try:
        parts = urlsplit(endpoint)
        complete = bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:  # The address or the port is malformed.
        complete = False
    if not complete or not endpoint.isprintable() or " " in endpoint:
        raise ConfigError(
            f"{name} must be the URL of a server, such as 'https://host', 'http://host:port' or "
            f"'http://[::1]:port', got {safe_repr(endpoint)}"
        )
