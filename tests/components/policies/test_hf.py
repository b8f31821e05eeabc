"""Policies taken from a folder or from the hub."""

import json
import shutil
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ratchet.components.policies.checkpoint import FILE, load, prompting_of
from ratchet.components.policies.hf import HF
from ratchet.components.policies.tiny import Tiny
from ratchet.errors import InputError
from ratchet.identity import construct, describe, identity_of
from ratchet.records import Problem

REVISION = "0123456789abcdef0123456789abcdef01234567"
CHAT = "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}A:{% endif %}"


@pytest.fixture
def folder(tmp_path):
    """What a stranger might hand in: a small model as `transformers` saves it."""
    tiny = Tiny(hidden_size=16, layers=1, heads=2, kv_heads=1, intermediate_size=32)
    tiny.create([], out=tmp_path / "model", scratch=tmp_path / "none", seed=1)
    (tmp_path / "model" / FILE).unlink()
    return tmp_path / "model"


def create(policy, tmp_path, examples=()):
    return policy.create(examples, out=tmp_path / "out", scratch=tmp_path / "scratch", seed=0)


def set_key(file, key, value):
    document = json.loads(file.read_text())
    document[key] = value
    file.write_text(json.dumps(document))


def test_a_folder_is_imported_as_it_was(folder, tmp_path):
    import torch
    from safetensors.torch import load_file

    metrics = create(HF(path=str(folder), dtype="float32"), tmp_path)
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sum(tensor.numel() for tensor in after.values()) == metrics["parameters"]


def test_the_weights_take_the_dtype_asked_for(folder, tmp_path):
    create(HF(path=str(folder), dtype="bfloat16"), tmp_path)
    model, _, prompting = load(tmp_path / "out")
    assert ("bfloat16", "torch.bfloat16") == (prompting.dtype, str(model.dtype))


def test_the_sampling_defaults_of_a_folder_are_dropped_and_its_end_tokens_kept(folder, tmp_path):
    for key, value in (("eos_token_id", [2, 5]), ("temperature", 0.1), ("do_sample", True), ("repetition_penalty", 1.3)):
        set_key(folder / "generation_config.json", key, value)
    create(HF(path=str(folder)), tmp_path)
    kept = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert [2, 5] == kept["eos_token_id"]
    assert not {"temperature", "repetition_penalty"} & kept.keys()


def test_a_chat_template_is_used_where_asked_for(folder, tmp_path):
    set_key(folder / "tokenizer_config.json", "chat_template", CHAT)
    create(HF(path=str(folder), template="chat"), tmp_path)
    _, tokenizer, _ = load(tmp_path / "out")
    assert "<1+2=>A:" == prompting_of(tmp_path / "out").text(tokenizer, "1+2=")


def damage_config(folder):
    (folder / "config.json").unlink()


def damage_kind(folder):
    set_key(folder / "config.json", "model_type", "bert_of_my_own")


def damage_seq2seq(folder):
    set_key(folder / "config.json", "model_type", "t5")


def damage_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def damage_weights(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def damage_end(folder):
    set_key(folder / "tokenizer_config.json", "eos_token", None)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_config, "no config.json"),
        (damage_kind, "bert_of_my_own"),
        (damage_seq2seq, "t5"),
        (damage_pickle, "pytorch_model.bin"),
        (damage_weights, "up_proj"),
        (damage_end, "end-of-sequence"),
    ],
)
def test_a_folder_that_is_no_policy_is_refused(damage, said, folder, tmp_path):
    damage(folder)
    with pytest.raises(InputError, match=said):
        create(HF(path=str(folder)), tmp_path)


def test_chat_without_a_chat_template_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no chat template"):
        create(HF(path=str(folder), template="chat"), tmp_path)


def test_the_identity_of_a_folder_is_its_content(folder, tmp_path):
    moved = Path(shutil.copytree(folder, tmp_path / "moved"))
    first, second = (identity_of(describe(HF(path=str(place)))) for place in (folder, moved))
    assert first == second
    set_key(moved / "config.json", "rms_norm_eps", 1e-5)
    assert first != identity_of(describe(HF(path=str(moved))))


def test_a_folder_survives_its_description_from_any_working_directory(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    policy = HF(path="model")
    monkeypatch.chdir("/")
    assert policy == construct(describe(policy))


@pytest.mark.parametrize("revision", [None, "main", "v1.0", REVISION[:7], REVISION.upper()])
def test_a_hub_id_needs_a_pinned_revision_and_is_told_where_to_find_it(revision):
    with pytest.raises(InputError, match=r"git ls-remote https://huggingface\.co/owner/name HEAD"):
        HF(path="owner/name", revision=revision)


@pytest.mark.parametrize("fields", [{"path": "/no/such/folder"}, {"path": "~/no/such"}, {"path": Path("owner/name")}, {"path": "a/b/c"}])
def test_a_folder_that_is_not_there_is_said_to_be_missing(fields):
    with pytest.raises(InputError, match="does not exist"):
        HF(revision=REVISION, **fields)


@pytest.mark.parametrize("fields", [{"revision": REVISION}, {"dtype": "float8"}, {"template": "alpaca"}])
def test_settings_that_mean_nothing_are_refused(fields, folder):
    with pytest.raises(InputError):
        HF(path=str(folder), **fields)


@dataclass(frozen=True, kw_only=True)
class Copier:
    """A trainer that hands the policy on and reports what it was to learn."""

    def train(self, policy, examples, *, out, scratch, seed):
        shutil.copytree(policy, out)
        return {"examples": len(examples)}


def test_only_a_warm_up_makes_the_import_seeded_and_needs_examples(folder, tmp_path):
    warm = HF(path=str(folder), warmup=Copier())
    assert (False, True) == (HF(path=str(folder)).seeded, warm.seeded)
    assert 1 == create(warm, tmp_path, [Problem(id="a", prompt="1+1=", solution="2")])["examples"]
    assert (tmp_path / "out" / FILE).is_file()


def test_a_cached_snapshot_is_used_without_network(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shutil.copytree(folder, tmp_path / "hub/models--owner--name/snapshots" / REVISION)
    create(HF(path="owner/name", revision=REVISION), tmp_path)
    assert (tmp_path / "out/model.safetensors").is_file()


def test_an_unreachable_hub_is_said_with_the_way_around(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=f"hf download owner/name --revision {REVISION}"):
        create(HF(path="owner/name", revision=REVISION), tmp_path)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback that refuses everything with the error code set on it."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status)
            self.send_header("X-Error-Code", self.server.code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(404, "RepoNotFound", "no such repository"), (404, "RevisionNotFound", "no such revision"), (403, "GatedRepo", "accept its terms")],
)
def test_what_the_hub_refuses_is_told_apart(status, code, said, hub, tmp_path):
    hub.status, hub.code = status, code
    with pytest.raises(InputError, match=said):
        create(HF(path="owner/name", revision=REVISION), tmp_path)
