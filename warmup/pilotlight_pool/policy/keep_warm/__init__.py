"""How long idle engines are kept, and what is warmed ahead."""
