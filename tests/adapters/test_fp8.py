"""Linear layers in 8 bits: as near to the layer they replace as e4m3 allows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import fp8


def layer(inner: int = 64, outer: int = 48, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inner, outer, bias=bias).bfloat16()


def test_quantised_within_one_part_in_sixteen() -> None:
    rows = torch.randn(40, 64) * torch.logspace(-4, 4, 40)[:, None]
    values, scale = fp8.quantise(rows)
    back = values.float() * scale
    normal = rows.abs() > scale * 2**-6  # below, e4m3 has a fixed step
    assert ((back - rows).abs()[normal] <= rows.abs()[normal] / 16).all()
    assert ((back - rows).abs() <= scale * 2**-10 + rows.abs() / 16).all()


@pytest.mark.parametrize("bias", [True, False])
def test_near_to_the_layer_it_replaces(bias: bool) -> None:
    linear = layer(bias=bias)
    x = torch.randn(2, 5, 64).bfloat16()
    expected, found = linear(x).float(), fp8.Fp8Linear(linear)(x)
    assert found.shape == expected.shape
    assert found.dtype == torch.bfloat16
    error = (found.float() - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.05  # e4m3 keeps 3 bits: 2 to 4 % of a sum of 64 products


def test_a_row_is_quantised_without_its_neighbours() -> None:
    made = fp8.Fp8Linear(layer())
    row, loud = torch.randn(1, 64).bfloat16(), torch.full((1, 64), 1e4).bfloat16()
    assert torch.equal(made(torch.cat([row, loud]))[0], made(row)[0])


def test_zeros_stay_zeros() -> None:
    made = fp8.Fp8Linear(layer(bias=False))
    assert made(torch.zeros(3, 64).bfloat16()).abs().max() == 0


def test_only_what_fits_and_was_chosen_is_converted() -> None:
    model = nn.Sequential(layer(), nn.Linear(48, 40), nn.Linear(48, 64), nn.ReLU())
    replaced = fp8.convert(model, lambda name, linear: name != "2")
    assert list(replaced) == ["0"]
    assert [type(module).__name__ for module in model] == ["Fp8Linear", "Linear", "Linear", "ReLU"]
    with pytest.raises(ValueError, match="multiples of 16"):
        fp8.Fp8Linear(nn.Linear(48, 40))


def test_what_was_replaced_can_be_put_back() -> None:
    model = nn.Sequential(layer(), nn.Sequential(layer(48, 64)))
    before = list(model.modules())
    fp8.restore(model, fp8.convert(model))
    assert list(model.modules()) == before


def test_no_cpu_multiplies_float8_itself() -> None:
    assert not fp8.supported("cpu")
