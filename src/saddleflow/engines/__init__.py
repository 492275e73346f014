"""Sources of energies and forces, and the ledger that counts them."""
