"""The report that `make demo` writes: what frozen models do with a growing context."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from iclkit import disk
from iclkit.errors import UserError


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Args:
        cells: Pixels per axis of a landscape.
        samples: Draws shown per landscape.
        datasets: Datasets behind the table of the known laws.
        splits: Random splits behind the table of the real data.
        seeds: Seeds of the datasets shown; chosen so that the components are met one after another.
    """

    cells: int = 120
    samples: int = 250
    datasets: int = 60
    splits: int = 20
    seeds: tuple[int, ...] = (3, 5)


QUICK = Effort(cells=24, samples=20, datasets=3, splits=2, seeds=(3,))


def write_demo(
    out: str | Path,
    quick: bool = False,
    mixtures: str | Path = "energy-mixtures",
    plane: str | Path = "energy-2d",
) -> Path:
    """Write the report.

    Args:
        out: Folder for report.html and its PNGs; made if missing, files of the same names are replaced.
        quick: A rough version in a few seconds.
        mixtures: Model of two dimensions trained on a task whose Bayes predictive is known.
        plane: Model of two dimensions for real data.

    Returns:
        The report.

    Raises:
        UserError: A model is missing, or matplotlib or scikit-learn is not installed.
    """
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the report needs {error.name}; install it with: pip install 'iclkit[plots,sklearn]'"
        ) from error

    import torch

    from iclkit.report import known_laws, petals
    from iclkit.report.html import Page
    from iclkit.training.models import load

    effort = QUICK if quick else Effort()
    known, real = load(mixtures, "energy"), load(plane, "energy")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out} is a file; name a folder for the report") from None

    page = Page("One frozen network, many densities")
    page.text(
        "An energy network was trained once, on endless random data sets. Its weights are frozen now. Shown a "
        "few points of a data set that it has never met, it gives the energy of any point, E(x | context), "
        "and with it a density, p(x | context) = exp(-E) / Z. Nothing is fitted: another context, another "
        "landscape."
    )
    with torch.no_grad():
        known_laws.write(page, out, known, effort)
        petals.write(page, out, real, effort)
    page.heading("How to read this")
    page.text(
        "Log-likelihoods are means over held-out points that no estimator saw, in nats per point; higher is "
        "better. Intervals are 95 % bootstrap intervals over data sets or splits; differences are paired. "
        "Energies are normalised numerically: by adaptive quadrature, or, in the table of the known laws, on "
        "draws from the Bayes predictive. The kernel density estimate has its bandwidth from cross-validation, "
        "the Gaussian mixture its size by BIC, anew for every context; of two settings of the mixture's "
        "covariances, the one that does better at 32 points is shown."
    )
    page.text(
        "Your own data: `iclkit energy plot DATA.csv --out picture.png`, `iclkit energy score DATA.csv`, "
        "`iclkit energy sample DATA.csv --size 1000 --out samples.csv`."
    )
    report = out / "report.html"
    disk.write_file(report, page.render().encode(), follow=True)
    return report
