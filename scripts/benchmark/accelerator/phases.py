"""The phases, the most important first: what an early end cuts off loses the least."""

from scripts.benchmark.accelerator.phase import Phase

HERE = "scripts.benchmark.accelerator"
# One process at a time may take nearly all of the memory; where several share it, each takes what it needs.
SHARED = (("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),)
# With tiny sizes, compiling is all that takes time; threads of PyTorch would wait for one another on busy cores.
SMOKE = (("XLA_FLAGS", "--xla_backend_optimization_level=0"), ("OMP_NUM_THREADS", "1"))
# Ours needs 40 GiB of an H200 beside PyTorch; without a limit it would take the next power of two.
BESIDE_PYTORCH = (*SHARED, ("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.36"))
DROPOUTS = tuple(f"--config.model.{name}dropout=0.1" for name in ("", "attention_", "activation_", "output_"))
PALLAS = ("--config.model.attention=pallas",)
TINY_MODEL = tuple(
    f"--config.model.{name}={value}"
    for name, value in {
        **{"width": 32, "heads": 2, "head_width": 16, "feed_forward": 64, "vocab_size": 256},
        **{"encoder_layers": 1, "decoder_layers": 1, "compute": "float32"},
    }.items()
)
TINY_STEP = ("--batch_size=4", "--input_length=32", "--target_length=8", "--steps=2", "--rounds=2", *TINY_MODEL)


def step(name: str, preset: str, rows: int, limit: int, *others: str, smoke: tuple[str, ...] = ()) -> Phase:
    arguments = (f"--preset=t5_v1_1/{preset}", f"--batch_size={rows}", "--mesh=data=1", *others)
    return Phase(name, f"{HERE}.steps", limit, arguments, (*TINY_STEP, "--gemm=64", *smoke))


def decoding(name: str, model: str, output_length: int, limit: int) -> Phase:
    arguments = (
        *(f"--models={model}", "--batch_sizes=128", "--beams=1", "--input_length=350", "--rounds=3", "--random"),
        *(f"--output_length={output_length}", "--compute=bfloat16", "--threads=16"),
        *("--engines", "ours", "transformers"),
    )
    tiny = ("--batch_sizes=2", "--input_length=16", "--output_length=8", "--threads=2", "--compute=float32")
    changes = tuple(each.replace("--config.", "--") for each in TINY_MODEL)
    return Phase(name, f"{HERE}.decoding", limit, arguments, (*tiny, *changes), SHARED)


PHASES = (
    Phase(
        "attention", f"{HERE}.attention", 90,
        smoke=("--rows=4", "--input_length=16", "--target_length=6", "--repeats=2"),
    ),
    step("step_base", "base", 128, 90, "--hlo=step_base.hlo.gz"),
    step("step_small", "small", 256, 75),
    step("step_large", "large", 64, 150),
    step("step_packed", "base", 128, 90, "--packed=4", *DROPOUTS, smoke=("--packed=2",)),
    step("step_packed_pallas", "base", 128, 90, "--packed=4", *DROPOUTS, *PALLAS, smoke=("--packed=2",)),
    Phase(
        "peers", f"{HERE}.training_peers", 240,
        ("--preset=t5_v1_1/base", "--batch_size=128", "--steps=5", "--rounds=5", "--patience=120"),
        (*TINY_STEP, "--torch_backend=aot_eager"), BESIDE_PYTORCH,
    ),
    Phase(
        "calibration", f"{HERE}.calibration", 60,
        smoke=("--rows=4", "--input_length=16", "--target_length=6", "--vocab_size=256", "--copied=1000000",
               "--launches=20", "--repeats=2", "--preset=t5_v1_1/small"),
    ),
    decoding("decode_bart", "bart/large", 87, 90),
    decoding("decode_t5_xl", "flan_t5/xl", 74, 150),
    Phase(
        "trace", f"{HERE}.trace", 60,
        ("--preset=t5_v1_1/base", "--batch_size=128", "--mesh=data=1", "--steps=20"),
        (*TINY_STEP, "--steps=20"),
    ),
)  # fmt: skip
