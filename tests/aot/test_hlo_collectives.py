import pytest

from imae_jax.aot import hlo_collectives

# As compilers write it, shortened.
MODULE = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.3 (input: bf16[32,128]) -> bf16[4,128] {
  %input = bf16[32,128]{0,1:T(8,128)(2,1)} parameter(0)
  %all-reduce.8 = bf16[32,128]{0,1:T(8,128)(2,1)} all-reduce(%input), channel_id=9, to_apply=%add
  ROOT %slice = bf16[4,128]{0,1} dynamic-slice(%all-reduce.8)
}

%piece.1 (p: bf16[4,32]) -> bf16[32,32] {
  ROOT %all-gather.1 = bf16[32,32]{1,0} all-gather(%p), channel_id=5, metadata={op_name="params[\\'kernel\\']"}
}

%piece.2 (p: bf16[4,32]) -> bf16[32,32] {
  ROOT %all-gather.2 = bf16[32,32]{1,0} all-gather(%p), channel_id=5, metadata={op_name="params[\\'kernel\\']"}
}

%body (x: f32[10]) -> f32[10] {
  %permuted = (f32[10]{0}, f32[10]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  ROOT %done = f32[10]{0} collective-permute-done(%permuted)
}

%never (x: f32[10]) -> f32[10] {
  ROOT %r = f32[10]{0} all-reduce(%x), channel_id=77
}

ENTRY %main (a: f32[10]) -> f32[10] {
  %sums = (bf16[4]{0}, /*index=1*/f32[2,3]{1,0}) all-reduce(%a, %b), channel_id=2, metadata={op_name="jit(step)/transpose(jvp(MAE))"}
  %f1 = bf16[32,32]{1,0} fusion(%a), kind=kCustom, calls=%piece.1
  %f2 = bf16[32,32]{1,0} fusion(%a), kind=kCustom, calls=%piece.2
  %f3 = bf16[4,128]{0,1} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.3
  %g = (f32[2]{0}, f32[16]{0}) all-gather-start(%a), channel_id=12, replica_groups=[1,8]<=[8]
  %s = f32[2]{0} reduce-scatter(%a), channel_id=13, replica_groups=[2,4]<=[8]
  %t = f32[2]{0} reduce-scatter(%a), channel_id=14, replica_groups={{0,1},{2,3}}
  %u = f32[2]{0} reduce-scatter(%a), channel_id=15, replica_groups=mesh['a'=2,'b'=8] {'b'}
  ROOT %w = f32[10]{0} while(%a), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"6"}}
}
"""  # noqa: E501


def test_every_exchange_is_found_once_with_its_whole_size():
    found = hlo_collectives.read(MODULE)
    assert sorted(found) == sorted(
        [
            ("all-reduce", 4 * 2 + 6 * 4, 1, "jit(step)/transpose(jvp(MAE))"),
            ("all-gather", 32 * 32 * 2, 1, "params['kernel']"),
            ("reduce-scatter", 32 * 128 * 2, 1, ""),
            ("all-gather", 16 * 4, 1, ""),
            ("reduce-scatter", 4 * 2 * 4, 1, ""),
            ("reduce-scatter", 2 * 2 * 4, 1, ""),
            ("reduce-scatter", 8 * 2 * 4, 1, ""),
            ("collective-permute", 40, 6, ""),
        ]
    )


def test_groups_of_an_unknown_form_are_not_guessed():
    """HLO writes {} for one group of all devices, whose number the line does not say."""
    text = MODULE.replace("replica_groups={{0,1},{2,3}}", "replica_groups={}")
    with pytest.raises(ValueError, match=r"cannot be read: .* reduce-scatter\(%a\)"):
        hlo_collectives.read(text)


def test_a_sum_goes_twice():
    assert hlo_collectives.Collective("all-reduce", 10, 3, "").sent == 60
    assert hlo_collectives.Collective("all-gather", 10, 3, "").sent == 30
