"""What a person types and sees of a gateway that runs: its client, its tables, its commands."""
