"""Child processes of every command: started under a guard, bounded, and gone with whoever started them."""
