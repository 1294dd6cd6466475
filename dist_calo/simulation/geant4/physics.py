"""Electromagnetic physics of Geant4 that needs no data sets.

The standard physics lists of Geant4 need its data sets, which no package index has. Those models that compute instead
of looking up have no Python binding in the wheel; they are made through the C++ symbols of its library, which is why
its version matters.
"""

from typing import Any

from dist_calo.errors import DataError

DESCRIPTION = (
    "e-, e+: multiple scattering (Urban), ionisation (Moller-Bhabha, Urban fluctuations), bremsstrahlung (relativistic "
    "model from 1 keV on, no Seltzer-Berger); e+: annihilation; gamma: photo-electric effect (Sandia tables, no "
    "relaxation), Compton (Klein-Nishina), conversion (Bethe-Heitler with LPM effect at all energies); no Rayleigh, no "
    "photo- or electro-nuclear reactions, no hadrons, no muons; no data sets"
)
PRODUCTION_CUT_MM = 0.7
MANTISSA_BITS = 12
"""Of stored energies: a precision of 0.01 %, which compresses well."""
_ELECTROMAGNETIC = 2
"""Geant4's number of that kind of process."""
_OBJECT_BYTES = 2**15
"""More than any process or model needs."""
_LOWEST_ENERGY_PLACE = 128
"""Bytes from the start of a model to its lowest energy in MeV, whose setter has no symbol; the highest follows."""
_BREMSSTRAHLUNG_MEV, _USUAL_MEV, _HIGHEST_MEV = 0.001, 1.0, 1e8
"""Lowest energy at which electrons radiate here and by default, and the highest one."""


class Symbols:
    """Functions of the wheel's C++ library, by their mangled names."""

    def __init__(self, path: str) -> None:
        import ctypes

        self._ctypes, self._library = ctypes, ctypes.CDLL(path)
        self._new = ctypes.CDLL("libstdc++.so.6")._Znwm
        self._new.restype, self._new.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        self._kept: list[Any] = []

    def call(self, name: str, *arguments: int | None) -> int:
        """Call a function of addresses and small numbers that returns an address or nothing."""
        function = getattr(self._library, name)
        function.restype = self._ctypes.c_void_p
        function.argtypes = [self._ctypes.c_void_p] * len(arguments)
        return int(function(*arguments) or 0)

    def make(self, constructor: str, *arguments: int | None) -> int:
        """Construct an object on the C++ heap, which Geant4 may delete."""
        place = int(self._new(_OBJECT_BYTES))
        self._ctypes.memset(place, 0, _OBJECT_BYTES)
        self.call(constructor, place, *arguments)
        return place

    def set_lowest_energy(self, model: int) -> None:
        """Let bremsstrahlung begin at 1 keV instead of 1 MeV, without which silicon sees 0.7 % more energy.

        Raises:
            DataError: if the limits do not stand where they do in this version.
        """
        limits = (self._ctypes.c_double * 2).from_address(model + _LOWEST_ENERGY_PLACE)
        if tuple(limits) != (_USUAL_MEV, _HIGHEST_MEV):
            raise DataError(
                f"this library of Geant4 is not that of the known wheel: limits {tuple(limits)} MeV"
            )
        limits[0] = _BREMSSTRAHLUNG_MEV

    def string(self, text: str) -> int:
        """Return the address of a ``std::string`` as libstdc++ lays it out: characters, length, capacity."""
        characters = self._ctypes.create_string_buffer(text.encode())
        address = self._ctypes.addressof(characters)
        layout = (self._ctypes.c_size_t * 4)(address, len(text), len(text), 0)
        self._kept += [characters, layout]
        return self._ctypes.addressof(layout)


def add_processes(symbols: Symbols) -> None:
    """Add transport and the electromagnetic processes of electrons, positrons and photons."""
    helper = symbols.call("_ZN19G4PhysicsListHelper20GetPhysicsListHelperEv")
    symbols.call("_ZN19G4PhysicsListHelper17AddTransportationEv", helper)
    electron = symbols.call("_ZN10G4Electron10DefinitionEv")
    positron = symbols.call("_ZN10G4Positron10DefinitionEv")
    photon = symbols.call("_ZN7G4Gamma10DefinitionEv")

    def add(process: int, particle: int) -> None:
        symbols.call(
            "_ZN19G4PhysicsListHelper15RegisterProcessEP10G4VProcessP20G4ParticleDefinition",
            helper,
            process,
            particle,
        )

    for particle in (electron, positron):
        add(symbols.make("_ZN21G4eMultipleScatteringC1ERK8G4String", symbols.string("msc")), particle)
        add(symbols.make("_ZN13G4eIonisationC1ERK8G4String", symbols.string("eIoni")), particle)
        bremsstrahlung = symbols.make("_ZN17G4eBremsstrahlungC1ERK8G4String", symbols.string("eBrem"))
        for place in (0, 1):  # below and above 1 GeV; the default below is a table
            model = symbols.make(
                "_ZN25G4eBremsstrahlungRelModelC1EPK20G4ParticleDefinitionRK8G4String",
                None,
                symbols.string("eBremLPM"),
            )
            if place == 0:
                symbols.set_lowest_energy(model)
            symbols.call("_ZN20G4VEnergyLossProcess10SetEmModelEP10G4VEmModeli", bremsstrahlung, model, place)
        add(bremsstrahlung, particle)
    add(symbols.make("_ZN19G4eplusAnnihilationC1ERK8G4String", symbols.string("annihil")), positron)
    for constructor, name in (
        ("_ZN21G4PhotoElectricEffectC1ERK8G4String13G4ProcessType", "phot"),
        ("_ZN19G4ComptonScatteringC1ERK8G4String13G4ProcessType", "compt"),
    ):
        add(symbols.make(constructor, symbols.string(name), _ELECTROMAGNETIC), photon)
    conversion = symbols.make(
        "_ZN17G4GammaConversionC1ERK8G4String13G4ProcessType", symbols.string("conv"), _ELECTROMAGNETIC
    )
    for place in (0, 1):
        model = symbols.make(
            "_ZN24G4PairProductionRelModelC1EPK20G4ParticleDefinitionRK8G4String",
            None,
            symbols.string("BetheHeitlerLPM"),
        )
        symbols.call("_ZN12G4VEmProcess10SetEmModelEP10G4VEmModeli", conversion, model, place)
    add(conversion, photon)
