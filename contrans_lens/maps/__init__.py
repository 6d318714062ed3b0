"""Maps from the residual stream of one model to that of another: fitted, diagnosed, applied and saved."""

from contrans_lens.maps.affine import AffineMap
from contrans_lens.maps.autoencoder import AutoencoderMap, fit_autoencoder
from contrans_lens.maps.diagnostics import MapDiagnostics, diagnose, mean_cosine, r2_score
from contrans_lens.maps.factor import SourceFactor, factor_moments, factor_source
from contrans_lens.maps.fit import MAP_METHODS, MapMethod, fit_map
from contrans_lens.maps.fitter import AffineFitter
from contrans_lens.maps.grid import MapGrid, fit_map_grid
from contrans_lens.maps.leave_one_out import RidgePath, leave_one_out_path

__all__ = [
    "MAP_METHODS",
    "AffineFitter",
    "AffineMap",
    "AutoencoderMap",
    "MapDiagnostics",
    "MapGrid",
    "MapMethod",
    "RidgePath",
    "SourceFactor",
    "diagnose",
    "factor_moments",
    "factor_source",
    "fit_autoencoder",
    "fit_map",
    "fit_map_grid",
    "leave_one_out_path",
    "mean_cosine",
    "r2_score",
]
