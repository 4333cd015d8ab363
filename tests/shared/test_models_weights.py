"""What trains and travels, what is frozen, and weights from a file."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from shared.errors import ModelError
from shared.models import ModelSpec, build_network, freeze, load_pretrained, trainable

CNN = ModelSpec("cnn", 2, 1, 2, channels=(4, 8))
CNN_NAMES = [
    *(f"stages.{stage}.{part}" for stage in (0, 1) for part in ("conv.weight", "norm.weight", "norm.bias")),
    "head.weight",
    "head.bias",
]


def cnn(seed: int = 0) -> nn.Module:
    return build_network(CNN, seed)


def names(network: nn.Module) -> list[str]:
    return [name for name, _ in trainable(network)]


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def written(folder: Path, tensors: dict[str, Tensor]) -> tuple[Path, str]:
    content = save(tensors)
    path = folder / "start.safetensors"
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


def refused(network: nn.Module, path: Path, digest: str, *, code: str = "model-weights") -> ModelError:
    """Loading fails, and not a single weight has changed."""
    before = tensors_of(network)
    with pytest.raises(ModelError) as caught:
        load_pretrained(network, path, digest)
    assert all(torch.equal(after, before[name]) for name, after in tensors_of(network).items())
    assert caught.value.code == code
    assert caught.value.hint
    assert str(path.parent) not in caught.value.sentence + caught.value.hint
    return caught.value


def test_parameters_are_listed_from_the_first_layer_to_the_head() -> None:
    assert names(cnn()) == CNN_NAMES


def test_a_parameter_under_two_names_travels_once() -> None:
    network = build_network(ModelSpec("dynunet", 2, 1, 2, channels=(4, 8, 8)), 0)
    assert len(network.state_dict()) > len(trainable(network))
    assert len({id(parameter) for _, parameter in trainable(network)}) == len(trainable(network))
    assert sum(p.numel() for _, p in trainable(network)) == sum(p.numel() for p in network.parameters())


def test_frozen_parameters_are_neither_listed_nor_given_a_gradient() -> None:
    network = cnn()
    freeze(network, ("stages",))
    assert names(network) == ["head.weight", "head.bias"]
    network(torch.ones(2, 1, 8, 8)).sum().backward()
    with_gradient = [name for name, parameter in network.named_parameters() if parameter.grad is not None]
    assert with_gradient == ["head.weight", "head.bias"]


def test_a_prefix_ends_where_a_part_of_the_name_ends() -> None:
    network = nn.Sequential(*(nn.Linear(1, 1) for _ in range(11)))
    freeze(network, ("1",))
    assert "1.weight" not in names(network)
    assert "10.weight" in names(network)


def test_a_whole_parameter_name_is_a_prefix_too() -> None:
    network = cnn()
    freeze(network, ("stages.0.conv.weight", "head"))
    assert names(network) == CNN_NAMES[1:6]


def test_freezing_nothing_changes_nothing() -> None:
    network = cnn()
    freeze(network, ())
    assert names(network) == CNN_NAMES


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("stage", "did you mean stages?"),
        ("encoder", "known here: head, stages"),
        ("stages.0.convs", "did you mean stages.0.conv?"),
        ("", "known here: head, stages"),
    ],
)
def test_a_prefix_that_matches_nothing_is_an_error_with_a_suggestion(prefix: str, hint: str) -> None:
    network = cnn()
    with pytest.raises(ModelError, match="matches no parameter") as caught:
        freeze(network, ("head", prefix))
    assert caught.value.hint == hint
    assert names(network) == CNN_NAMES


def test_freezing_everything_is_an_error() -> None:
    network = cnn()
    with pytest.raises(ModelError, match="leaves no parameter to train"):
        freeze(network, ("stages", "head"))
    assert names(network) == CNN_NAMES


@pytest.mark.parametrize(
    "spec", [CNN, ModelSpec("dynunet", 2, 1, 2, channels=(4, 8, 8)), ModelSpec("unet", 3, 1, 2, channels=(4, 8))]
)
def test_weights_from_a_file_replace_all_others(spec: ModelSpec, tmp_path: Path) -> None:
    source, network = build_network(spec, 1), build_network(spec, 2)
    assert load_pretrained(network, *written(tmp_path, tensors_of(source))) == ()
    wanted = tensors_of(source)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors_of(network).items())


def test_frozen_parameters_are_loaded_too_and_stay_frozen(tmp_path: Path) -> None:
    source, network = cnn(1), cnn(2)
    freeze(network, ("stages",))
    load_pretrained(network, *written(tmp_path, tensors_of(source)))
    assert torch.equal(network.get_parameter("stages.0.conv.weight"), source.get_parameter("stages.0.conv.weight"))
    assert names(network) == ["head.weight", "head.bias"]


def test_a_fresh_head_may_be_missing_where_it_is_named(tmp_path: Path) -> None:
    source, network = cnn(1), cnn(2)
    head = network.get_parameter("head.weight").clone()
    tensors = {name: tensor for name, tensor in tensors_of(source).items() if not name.startswith("head")}
    path, digest = written(tmp_path, tensors)
    assert load_pretrained(network, path, digest, except_prefixes=("head",)) == ("head.weight", "head.bias")
    assert torch.equal(network.get_parameter("head.weight"), head)
    assert torch.equal(network.get_parameter("stages.1.conv.weight"), source.get_parameter("stages.1.conv.weight"))
    assert "2 missing (head.weight, head.bias)" in refused(network, path, digest).sentence


def test_an_excepted_head_that_is_in_the_file_is_loaded(tmp_path: Path) -> None:
    source, network = cnn(1), cnn(2)
    path, digest = written(tmp_path, tensors_of(source))
    assert load_pretrained(network, path, digest, except_prefixes=("head",)) == ()
    assert torch.equal(network.get_parameter("head.weight"), source.get_parameter("head.weight"))


def test_an_exception_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    path, digest = written(tmp_path, tensors_of(cnn()))
    with pytest.raises(ModelError, match="except_prefixes: heads matches no parameter") as caught:
        load_pretrained(cnn(), path, digest, except_prefixes=("heads",))
    assert caught.value.hint == "did you mean head?"


def test_another_file_than_the_plan_names_is_refused(tmp_path: Path) -> None:
    path, digest = written(tmp_path, tensors_of(cnn(1)))
    error = refused(cnn(2), path, "0" * 64, code="model-digest")
    assert digest[:12] in error.sentence
    assert "000000000000" in error.sentence


def test_one_flipped_bit_is_refused(tmp_path: Path) -> None:
    path, digest = written(tmp_path, tensors_of(cnn(1)))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(cnn(2), path, digest, code="model-digest")


def test_every_kind_of_misfit_is_counted_and_the_first_are_named(tmp_path: Path) -> None:
    tensors = tensors_of(cnn(1))
    del tensors["head.bias"]
    tensors |= {f"extra.{i}": torch.zeros(1) for i in range(5)}
    tensors["head.weight"] = torch.zeros(3, 8)
    tensors["stages.0.norm.bias"] = torch.zeros(4, dtype=torch.float16)
    assert refused(cnn(2), *written(tmp_path, tensors)).sentence == (
        "the weights do not fit the network: 1 missing (head.bias); 5 unexpected (extra.0, extra.1, extra.2, …); "
        "2 of another shape (stages.0.norm.bias float16 [4] in the file, float32 [4] in the network, "
        "head.weight float32 [3, 8] in the file, float32 [2, 8] in the network)"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    tensors = tensors_of(cnn(1))
    tensors["head.bias"][1] = value
    assert "1 tensors (head.bias)" in refused(cnn(2), *written(tmp_path, tensors)).sentence


def test_a_pickle_is_refused_even_with_the_right_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(tensors_of(cnn(1)), path)
    error = refused(cnn(2), path, hashlib.sha256(path.read_bytes()).hexdigest(), code="model")
    assert "not in safetensors format" in error.sentence


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path, _ = written(tmp_path, tensors_of(cnn(1)))
    path.write_bytes(path.read_bytes()[:-10])
    refused(cnn(2), path, hashlib.sha256(path.read_bytes()).hexdigest(), code="model")


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    error = refused(cnn(2), tmp_path / "absent.safetensors", "0" * 64, code="model")
    assert "absent.safetensors cannot be read: No such file" in error.sentence
