"""The three published families of Fakanov and Ratnikov."""
