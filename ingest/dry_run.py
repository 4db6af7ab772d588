"""Tells what an ingest would do, without writing; without torch where a receipt says that there is nothing to do."""

from catalog.store.location import Location
from catalog.study.file import Study
from ingest.callbacks import Progress
from ingest.receipt import as_left
from ingest.to_do import Work, up_to_date
from ingest.unmade_catalog import open_for_reading


def dry_run(location: Location, study: Study, progress: Progress) -> list[Work]:
    """A row for each part of the study, in the order in which an ingest goes through them.

    The catalog need not be there. Raises as `ingest.pipeline.foresee_study` does, and CatalogError for a catalog of an
    older version.
    """
    with open_for_reading(location) as catalog:
        if as_left(catalog, study) is not None:
            return up_to_date(study)
        from ingest.pipeline import foresee_study

        return foresee_study(catalog, study, progress)
