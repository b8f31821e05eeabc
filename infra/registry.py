"""Champions in MLflow's model registry: a version for each promotion, the aliases `champion` and `previous` on the last two.

A version's source is the policy in the store, so that `mlflow artifacts download -u models:/NAME@champion` fetches it. A tracking server
takes no path of its clients' disks, and is given the logged model of the round instead, which says where the policy is.

Which version an alias stands on follows from when each was promoted, whoever writes it and in whatever order, so that writing all of it
again, or from several runs, leaves the same.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEY, NAME, EVENT, AT = (f"ratchet.{name}" for name in ("key", "run", "event", "at"))
DIGEST, SUPERSEDED, COMPLETE = (f"ratchet.{name}" for name in ("digest", "superseded", "complete"))
CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A policy that became the champion of a registered model."""

    model: str | None
    """None: the run's own."""
    run_id: str
    model_id: Callable[[], str]
    source: str | None
    """Where the policy is; None: only its logged model says it."""
    number: int
    """Of the ledger's event that says so."""
    at: float
    digest: str
    words: str


def register(client: Any, key: str, run: str, promotions: Sequence[Promotion]) -> None:
    """Bring the registered models that a run promotes to up to date."""
    models: dict[str | None, list[Promotion]] = {}
    for promotion in promotions:
        models.setdefault(promotion.model, []).append(promotion)
    for model, mine in models.items():
        name = model or _own(client, key, run)
        _registered(client, name, {} if model else {KEY: key, NAME: run}, "" if model else f"The champions of the run {run}, the first one first.")
        _versions(client, name, key, sorted(mine, key=lambda promotion: promotion.number))
        _aliases(client, name)


def model_name(run: str) -> str:
    """What the registered model of a run is called: MLflow takes no slash, which stands in the name of a run of a group."""
    return re.sub(r"[/:]", ".", run)


def _own(client: Any, key: str, run: str) -> str:
    """The name of a run's own registered model; that of another root's run, or of somebody else, is left alone."""
    there = _find(client, model_name(run))
    return model_name(run) if there is None or there.tags.get(KEY) == key else f"{model_name(run)} {key[:6]}"


def _find(client: Any, name: str) -> Any:
    found = client.search_registered_models(f"name = '{name}'")
    return found[0] if found else None


def _registered(client: Any, name: str, tags: Mapping[str, str], words: str) -> None:
    from mlflow.exceptions import MlflowException

    if _find(client, name) is None:
        try:
            client.create_registered_model(name, tags=dict(tags), description=words or None)
        except MlflowException:  # another run created it meanwhile
            if _find(client, name) is None:
                raise


def _versions(client: Any, name: str, key: str, promotions: Sequence[Promotion]) -> None:
    """A version for each promotion, oldest first; those of a round that was made anew since are marked."""
    there = {version.tags.get(EVENT): version for version in _of(client, name) if version.tags.get(KEY) == key}
    for promotion in promotions:
        found = there.get(str(promotion.number))
        if found is None or found.tags.get(COMPLETE) != "yes":
            model_id = promotion.model_id()
            version = found or _create(client, name, key, promotion, model_id)
            _link(client, model_id, name, int(version.version))
            client.set_model_version_tag(name, str(version.version), COMPLETE, "yes")
    wanted = {str(promotion.number) for promotion in promotions}
    for number, version in there.items():
        superseded = str(number not in wanted).lower()
        if version.tags.get(SUPERSEDED) != superseded:
            client.set_model_version_tag(name, version.version, SUPERSEDED, superseded)


def _create(client: Any, name: str, key: str, promotion: Promotion, model_id: str) -> Any:
    at = str(round(1000 * promotion.at))
    return client.create_model_version(
        name,
        source=promotion.source or f"models:/{model_id}",
        run_id=promotion.run_id,
        model_id=model_id,
        tags={KEY: key, EVENT: str(promotion.number), AT: at, DIGEST: promotion.digest, SUPERSEDED: "false"},
        description=promotion.words,
    )


def _link(client: Any, model_id: str, name: str, version: int) -> None:
    """Have the logged model's page show the version, which a tracking server does by itself and a database does not."""
    said = client.get_logged_model(model_id).tags.get("mlflow.modelVersions")
    versions = json.loads(said) if said else []
    if not any((one["name"], int(one["version"])) == (name, version) for one in versions):
        client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps([*versions, {"name": name, "version": version}])})


def _of(client: Any, name: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _aliases(client: Any, name: str) -> None:
    """Put `champion` on the version that was promoted last, `previous` on the last before it that is another policy."""
    standing = [version for version in _of(client, name) if version.tags.get(AT) and version.tags.get(SUPERSEDED) == "false"]
    standing.sort(key=lambda version: (int(version.tags[AT]), int(version.version)), reverse=True)
    others = [version for version in standing if version.tags[DIGEST] != standing[0].tags[DIGEST]]
    wanted = {alias: str(found[0].version) for alias, found in ((CHAMPION, standing), (PREVIOUS, others)) if found}
    there = {alias: str(version) for alias, version in _find(client, name).aliases.items()}
    for alias in (CHAMPION, PREVIOUS):
        if alias in wanted and there.get(alias) != wanted[alias]:
            client.set_registered_model_alias(name, alias, wanted[alias])
        elif alias in there and alias not in wanted:
            client.delete_registered_model_alias(name, alias)
