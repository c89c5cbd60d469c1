"""Every operation that writes or replaces something."""

from tests.crash.copy_operations import Backup, Create, Export, Migrate, Restore
from tests.crash.model_operations import Capture, Night, Train
from tests.crash.operation import Operation
from tests.crash.storage_operations import (
    Commit,
    Compact,
    Decide,
    Forget,
    Maintain,
    MergeTables,
    Rebuild,
    Retire,
    Sweep,
)

OPERATIONS: tuple[Operation, ...] = (
    *(Commit(), Capture(), Train(), Night(), Decide()),
    *(Forget(), Retire(), Compact(), MergeTables(), Sweep(), Maintain(), Rebuild()),
    *(Create(), Migrate(), Backup(), Restore(), Export()),
)
