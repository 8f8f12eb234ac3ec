use super::*;
use crate::engine::CHUNK;
use crate::model::config::tests::read;
use crate::model::config::tests::sizes::SIZES;
use crate::ops::glu::Activation;

const GIB: u64 = 1 << 30;

fn both(kv_type: KvType) -> KvTypes {
    KvTypes { k: kv_type, v: kv_type }
}

fn config(name: &str) -> Config {
    let size = SIZES.iter().find(|size| size.name == name).unwrap();
    read(&size.json().to_string()).unwrap()
}

fn options(context: usize, kv_type: KvType) -> Options {
    let types = both(kv_type);
    Options {
        context,
        sequences: 1,
        kv_local: types,
        kv_global: types,
        chunk: CHUNK,
        snapshots: 0,
        pool: None,
    }
}

/// Bytes a token: local and global, for `f16`, `q8_0`, `q4_0` and `tq3_0`.
const TOKEN_BYTES: [(&str, [[u64; 2]; 4]); 5] = [
    ("E2B", [[12288, 6144], [6528, 3264], [3456, 1728], [2688, 1344]]),
    ("E4B", [[40960, 16384], [21760, 8704], [11520, 4608], [8960, 3584]]),
    // 40 layers of 8 heads of 256, and 8 layers of one head of 512.
    ("12B", [[327_680, 16384], [174_080, 8704], [92160, 4608], [71680, 3584]]),
    ("26B-A4B", [[204_800, 20480], [108_800, 10880], [57600, 5760], [44800, 4480]]),
    ("31B", [[819_200, 81920], [435_200, 43520], [230_400, 23040], [179_200, 17920]]),
];

#[test]
fn every_size_takes_its_bytes_a_token() {
    for (name, types) in TOKEN_BYTES {
        let config = config(name);
        for (kv_type, [local, global]) in KvType::ALL[1..].iter().zip(types) {
            assert_eq!(token_bytes(&config, Span::Local, both(*kv_type)), Some(local), "{name} {kv_type}");
            assert_eq!(token_bytes(&config, Span::Global, both(*kv_type)), Some(global), "{name} {kv_type}");
        }
    }
}

#[test]
fn a_type_that_does_not_fill_a_head_takes_no_bytes_at_all() {
    let mut config = config("E2B");
    config.layers.iter_mut().for_each(|layer| layer.head_dim = 96);
    assert_eq!(token_bytes(&config, Span::Local, both(KvType::TQ3_0)), None);
    assert!(token_bytes(&config, Span::Local, both(KvType::Q8_0)).is_some());
}

#[test]
fn totals_with_a_ring_of_two_windows_are_those_of_the_literature() {
    // Name, type, GiB of the ring, and at 4K, 32K, 64K, 128K, 256K and 1M tokens.
    let table = [
        ("E2B", KvType::F16, 0.0117, [0.035, 0.199, 0.387, 0.762, 1.512, 6.01]),
        ("E2B", KvType::TQ3_0, 0.0026, [0.008, 0.044, 0.085, 0.167, 0.331, 1.32]),
        ("E4B", KvType::Q8_0, 0.0208, [0.054, 0.286, 0.552, 1.083, 2.146, 8.52]),
        ("26B-A4B", KvType::Q8_0, 0.2075, [0.249, 0.540, 0.872, 1.536, 2.864, 10.83]),
        ("26B-A4B", KvType::Q4_0, 0.1099, [0.132, 0.286, 0.461, 0.813, 1.516, 5.74]),
        ("31B", KvType::F16, 1.5625, [1.875, 4.062, 6.562, 11.56, 21.56, 81.6]),
        ("31B", KvType::TQ3_0, 0.3418, [0.410, 0.889, 1.436, 2.529, 4.717, 17.8]),
    ];
    for (name, kv_type, ring, totals) in table {
        let config = config(name);
        let bytes = |span| token_bytes(&config, span, both(kv_type)).unwrap() as f64;
        let local = bytes(Span::Local) * (2 * config.window) as f64 / GIB as f64;
        assert!((local - ring).abs() <= 0.0001, "{name} {kv_type}: ring of {local}");
        for (tokens, expected) in [4, 32, 64, 128, 256, 1024].into_iter().zip(totals) {
            let total = local + bytes(Span::Global) * f64::from(tokens << 10) / GIB as f64;
            // Printed with three digits, or three places.
            let digits = f64::max(0.005 * expected, 0.000_6);
            assert!(
                (total - expected).abs() <= digits,
                "{name} {kv_type} at {tokens}K: {total}, not {expected}"
            );
        }
    }
}

#[test]
fn the_pools_hold_the_ring_and_the_whole_context() {
    let config = config("26B-A4B");
    let [local, global] = cache_bytes(&config, &options(65536, KvType::Q8_0)).unwrap();
    // 1024 of the window, 511 of the step, 255 to take back, in whole pages.
    assert_eq!(local, 108_800 * 1792);
    assert_eq!(global, 10880 * 65536);
    // A context shorter than the ring needs no more than itself.
    assert_eq!(cache_bytes(&config, &options(300, KvType::Q8_0)).unwrap(), [108_800 * 512, 10880 * 512]);
}

#[test]
fn f14_memory_grows_by_the_bytes_of_global_layers_alone() {
    for (name, types) in TOKEN_BYTES {
        let config = config(name);
        for (kv_type, [_, global]) in KvType::ALL[1..].iter().zip(types) {
            let plan = |tokens| {
                let options = options(tokens, *kv_type);
                MemoryPlan::new(&config, &options, Target::Gpu, 5 * GIB, 100 << 20).unwrap().total()
            };
            for tokens in [1, 2, 3].map(|n| n << 16) {
                assert_eq!(plan(tokens + 65536) - plan(tokens), global << 16, "{name} {kv_type} at {tokens}");
            }
        }
    }
}

/// What is offered on a card of 24 GiB to weights of `weights` bytes.
fn offered(name: &str, weights: u64, options: &Options) -> Result<MemoryPlan, TooLarge> {
    let config = config(name);
    let plan = MemoryPlan::new(&config, options, Target::Gpu, weights, 200 << 20).unwrap();
    plan.check(&config, options, 24 * GIB).map(|()| plan)
}

#[test]
fn f18_the_mixture_gets_q8_0_where_that_fits_and_less_only_beyond() {
    let weights = 17_000_000_000;
    assert!(offered("26B-A4B", weights, &options(256 << 10, KvType::F16)).is_ok());
    let half = offered("26B-A4B", weights, &options(512 << 10, KvType::F16)).unwrap_err();
    assert_eq!(half.fits.types, Some(both(KvType::Q8_0)));
    assert!(offered("26B-A4B", weights, &options(512 << 10, KvType::Q8_0)).is_ok());
    let million = offered("26B-A4B", weights, &options(1 << 20, KvType::Q8_0)).unwrap_err();
    assert_eq!(million.fits.types, Some(both(KvType::Q4_0)));
}

#[test]
fn what_is_offered_fits_and_one_page_more_does_not() {
    let (weights, config) = (19_300_000_000, config("31B"));
    for (context, kv_type) in [(64 << 10, KvType::F16), (256 << 10, KvType::Q8_0), (1 << 20, KvType::Q4_0)] {
        let asked = options(context, kv_type);
        let refused = offered("31B", weights, &asked).unwrap_err();
        let fits = |types: KvTypes, context| {
            let options = Options { kv_global: types, context, ..asked };
            offered("31B", weights, &options).is_ok()
        };
        if let Some(types) = refused.fits.types {
            assert!(fits(types, context), "{kv_type}: {refused}");
            assert_eq!(refused.fits.both, None);
        }
        let ways = [refused.fits.context.map(|context| (asked.kv_global, context)), refused.fits.both];
        for (types, context) in ways.into_iter().flatten() {
            assert!(fits(types, context) && !fits(types, context + PAGE), "{kv_type}: {refused}");
        }
        assert!(refused.plan.total() > refused.limit);
        assert_eq!(MemoryPlan::new(&config, &asked, Target::Gpu, weights, 200 << 20).unwrap(), refused.plan);
    }
}

#[test]
fn a_refusal_is_one_sentence_with_the_numbers() {
    let refused = offered("31B", 19_300_000_000, &options(1 << 20, KvType::Q8_0)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "61.4 GiB (KV cache of local layers 743.8 MiB, of global layers 42.5 GiB, scratch 200.0 MiB, weights 18.0 GiB) \
         are needed and 24.0 GiB are free; --ctx 125696, or --kv tq3_0,tq3_0 --kv-local q8_0,q8_0 --ctx 305664 would fit"
    );
    let hopeless = offered("31B", 30 * GIB, &options(4096, KvType::F16)).unwrap_err();
    assert!(
        hopeless.to_string().ends_with("no context fits, free memory or use a smaller model"),
        "{hopeless}"
    );
}

#[test]
fn the_processor_needs_no_memory_for_weights() {
    let config = config("E2B");
    let options = options(8192, KvType::F16);
    let plan = MemoryPlan::new(&config, &options, Target::Cpu, 1 << 50, 1000).unwrap();
    // One head of 512 for keys and for values, in four bytes.
    assert_eq!(plan.decoded, 8192 * 512 * 8);
    assert_eq!(plan.total(), plan.kv() + 1000 + plan.decoded);
    assert!(plan.check(&config, &options, plan.total()).is_ok());
    assert!(plan.check(&config, &options, plan.total() - 1).is_err());
}

#[test]
fn what_a_device_needs_for_itself_is_counted_and_said() {
    let config = config("31B");
    let options = options(8192, KvType::Q8_0);
    let plain = MemoryPlan::new(&config, &options, Target::Gpu, 18 * GIB, 200 << 20).unwrap();
    let plan = MemoryPlan { fixed: 64 << 20, ..plain };
    assert_eq!(plan.total(), plain.total() + (64 << 20));
    assert!(plan.to_string().contains("kernels and captured steps 64.0 MiB, weights 18.0 GiB"), "{plan}");
    assert!(plan.check(&config, &options, plan.total()).is_ok());
    let refused = plan.check(&config, &options, plan.total() - 1).unwrap_err();
    let fits = refused.fits.context.map(|context| Options { context, ..options }).unwrap();
    let smaller = MemoryPlan::new(&config, &fits, Target::Gpu, 18 * GIB, 200 << 20).unwrap();
    assert!(smaller.total() + plan.fixed <= refused.limit, "{refused}");
}

#[test]
fn sizes_are_printed_with_a_unit_that_fits() {
    let sizes = [0, 1023, 1024, 10_240, 1_048_575, 3 << 29, 24 * GIB, 1 << 50].map(|n| Size(n).to_string());
    assert_eq!(
        sizes,
        ["0 B", "1023 B", "1.00 KiB", "10.0 KiB", "1.00 MiB", "1.50 GiB", "24.0 GiB", "1024.0 TiB"]
    );
}

/// The published DFlash drafter of 31B.
fn dflash_31b() -> DFlashConfig {
    let mut layers = vec![Span::Local; 4];
    layers.push(Span::Global);
    DFlashConfig {
        hidden: 5376,
        heads: 64,
        kv_heads: 8,
        head_dim: 128,
        ffn: 10752,
        layers,
        window: 2048,
        rms_eps: 1e-6,
        theta: 1e6,
        block: 16,
        mask_token: 4,
        taps: vec![1, 12, 23, 35, 46, 57],
        target_layers: Some(60),
        vocab: None,
        causal: None,
        softcap: Some(30.0),
        activation: Activation::Silu,
        embedding_scale: None,
    }
}

#[test]
fn f19_sliding_layers_of_a_drafter_keep_their_window_only() {
    let config = dflash_31b();
    let bytes = |context| dflash_bytes(&config, &options(context, KvType::F16), both(KvType::F16));
    // 4 KiB a token of one full layer; nothing else grows.
    let slope = bytes(128 << 10) - bytes(64 << 10);
    assert_eq!(slope, (64 << 10) * 4096);
    // Ten pages of four layers, and 512 rows of six features.
    assert_eq!(bytes(64 << 10) - (64 << 10) * 4096, 4 * 10 * 256 * 4096 + 512 * 6 * 5376 * 4);
}

#[test]
fn k2_a_wider_window_of_a_drafter_gets_a_larger_ring() {
    let options = options(64 << 10, KvType::F16);
    for window in [2048, 8192, 20_000] {
        let layout = draft::layout(&DFlashConfig { window, ..dflash_31b() }, &options);
        // The window, a step that appends, and what one may go back.
        assert!(layout.local_pages * PAGE >= window + PAGE, "{window}: {} pages", layout.local_pages);
        assert!(layout.local_pages * PAGE < window + 5 * PAGE, "{window}: {} pages", layout.local_pages);
    }
}

#[test]
fn f19_31b_with_dflash_at_80k_does_not_fit_24_gib_where_with_mtp_it_does() {
    let config = config("31B");
    let options = options(80 << 10, KvType::Q8_0);
    let plan = MemoryPlan::new(&config, &options, Target::Gpu, 18_320 << 20, 300 << 20).unwrap();
    // Weights of 1.54 and of 0.47 billion parameters in Q8_0.
    let dflash = 1_540_000_000 * 34 / 32 + dflash_bytes(&dflash_31b(), &options, both(KvType::Q8_0));
    let mtp = 470_000_000 * 34 / 32;
    assert!(plan.total() + dflash > 24 * GIB, "{} and {}", Size(plan.total()), Size(dflash));
    assert!(plan.total() + mtp < 24 * GIB, "{} and {}", Size(plan.total()), Size(mtp));
}
