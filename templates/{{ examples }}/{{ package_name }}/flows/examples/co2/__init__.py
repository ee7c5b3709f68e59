"""The CO2 record of Mauna Loa: cleaned, then reported on."""
