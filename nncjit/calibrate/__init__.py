"""Statistics of a model at work: which errors of its weights its output feels, and how much.

`Calibration` collects them sample by sample from inputs and gradients, wherever these come from; `Statistics` is the
file that the encoder reads, tensor by tensor. Nothing here needs a framework or a compiler.

    calibration = Calibration()
    for x, y, g in samples:                      # g: gradient of a probe of the output (`probes`) at the layer's output
        calibration.linear("fc.weight", (out, n)).add(x, g)
        calibration.end_samples(1, output_power=float(y @ y))
    calibration.save("model.stats.safetensors")

See docs/concepts/calibration.md for what is collected and why.
"""

from nncjit.calibrate.collection import Calibration
from nncjit.calibrate.input_sums import InputSums
from nncjit.calibrate.probes import fisher_probe, gaussian_probe
from nncjit.calibrate.statistics_file import Statistics, TensorStatistics, is_statistics, opened
from nncjit.calibrate.statistics_record import TensorRecord
from nncjit.calibrate.table_sums import TableSums
from nncjit.calibrate.unfolding import unfold
from nncjit.calibrate.weight_sums import FEWEST, are_apart, are_same, weight_sums

__all__ = [
    "FEWEST",
    "Calibration",
    "InputSums",
    "Statistics",
    "TableSums",
    "TensorRecord",
    "TensorStatistics",
    "are_apart",
    "are_same",
    "fisher_probe",
    "gaussian_probe",
    "is_statistics",
    "opened",
    "unfold",
    "weight_sums",
]
