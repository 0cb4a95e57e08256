"""The engine 'higher': the inner loop unrolled operation by operation, whatever its parts and the tasks do."""
