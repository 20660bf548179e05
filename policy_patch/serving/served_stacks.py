"""Finds the model names by which a gateway serves stacks of patches, so that what is measured is what is meant.

Only `/v1/models` is asked. Patches are told by the hash of their files, so their names may differ from those here.
"""

from collections.abc import Mapping, Sequence

from policy_patch.answers.addresses import addresses_in, shown_address, split_spec
from policy_patch.answers.endpoint import OpenAIEndpoint
from policy_patch.answers.next_tokens import listed_models
from policy_patch.errors import ServingError


def served_stacks(
    spec: str, sha256: Mapping[str, str], stacks: Mapping[str, Sequence[str]]
) -> dict[str, OpenAIEndpoint]:
    """Return for each stack the endpoint at which a gateway serves it.

    Args:
        spec (`str`):
            `openai:<base>@<address>/v1`, or the same with `chat:`, where `<base>` is what the gateway calls the base.
            Several addresses are joined by commas; each has to serve all patches.
        sha256 (`Mapping[str, str]`):
            Name of each patch here -> hash of its tensor file.
        stacks (`Mapping[str, Sequence[str]]`):
            Name of each stack -> names of its patches here, in order.

    Returns:
        `dict[str, OpenAIEndpoint]`: name of each stack -> its endpoint. The models have their versions in their names.

    Raises:
        ServingError: the server does not say which patches its models have, lacks one of the patches, or has it under
            different names at different addresses.
        EndpointError: `spec` has another form, or a server does not answer.
    """
    kind, base, urls = split_spec(spec)
    addresses = addresses_in(urls)
    found = [_names_by_hash(OpenAIEndpoint(base, url), base) for url in addresses]
    parts = {}
    for name, digest in sha256.items():
        there = [each.get(digest) for each in found]
        if None in there:
            where = shown_address(addresses[there.index(None)])
            served = sorted(set(found[there.index(None)].values()))
            raise ServingError(
                f"The gateway at {where} does not serve the patch `{name}` (sha256 {digest[:12]}...) on `{base}`; it "
                f"serves {', '.join(f'{base}+{each}' for each in served) or 'none'}. Start it with this very patch."
            )
        if len(set(there)) > 1:
            raise ServingError(
                f"The patch `{name}` is called {' and '.join(sorted(set(map(str, there))))} at different addresses. "
                "Give it one name at all of them."
            )
        parts[name] = there[0]
    return {
        stack: OpenAIEndpoint("+".join([base, *(parts[name] for name in names)]), addresses, chat=kind == "chat")
        for stack, names in stacks.items()
    }


def _names_by_hash(endpoint: OpenAIEndpoint, base: str) -> dict[str, str]:
    """Return hash -> name and version (`tox@v1.2.0`) of each patch that a server lists alone on the base."""
    found: dict[str, str] = {}
    for model in listed_models(endpoint):
        before, plus, part = model.id.partition("+")
        facts = (model.model_extra or {}).get("policy_patch")
        if before == base and plus and "+" not in part and isinstance(facts, list) and len(facts) == 1:
            digest = facts[0].get("sha256") if isinstance(facts[0], dict) else None
            if isinstance(digest, str) and ("@" in part or digest not in found):
                found[digest] = part
    if not found:
        raise ServingError(
            f"The server at {endpoint.address} does not say which patches stand behind model names of `{base}`, as "
            "`policy-patch gateway` does, so whether a name means a stack cannot be known. Put the gateway in front of "
            "it, or measure one stack at a time: `policy-patch evaluate one two --endpoint ...`."
        )
    return found
