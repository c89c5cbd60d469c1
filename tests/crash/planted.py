"""Operations with a defect, which a campaign must find."""

from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.lake.lake import Lake
from tests.crash.operation import Order, Tell
from tests.crash.site import Site
from tests.crash.storage_operations import Commit


class LosesARow(Commit):
    """Each commit removes a row of another document."""

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        super().carry_out(site, order, tell)
        _change(site.location, "DELETE FROM store.sequences WHERE rowid = (SELECT min(rowid) FROM store.sequences)")


class DoublesADocument(Commit):
    """Each commit takes another document in once more."""

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        super().carry_out(site, order, tell)
        _change(site.location, "INSERT INTO store.sequences FROM store.sequences LIMIT 1")
        _change(site.location, "INSERT INTO store.documents FROM store.documents LIMIT 1")


class TellsTooEarly(Commit):
    """Says that everything is committed before it is."""

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        tell(len(order["units"]))
        super().carry_out(site, order, lambda number: None)


class DoesNothing(Commit):
    """Is over at once: no kill can meet it at work."""

    def order(self, site: Site, chance: object, label: str) -> Order:
        return {"units": [], "run_id": label}

    def carry_out(self, site: Site, order: Order, tell: Tell) -> None:
        return


def _change(location: LakeLocation, statement: str) -> None:
    with Lake.open(location, read_only=False) as lake, lake.transaction() as transaction:
        transaction.connection.execute(statement)
