"""What a user builds, fits, queries and samples."""
