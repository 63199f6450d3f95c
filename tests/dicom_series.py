"""DICOM series for the tests, as a scanner writes them: complete headers, and a patient whose data must not
travel."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

STANDARD = {
    "PatientName": "Musterfrau^Erika", "PatientID": "PID-4711-X", "PatientBirthDate": "19561224",
    "PatientSex": "F", "StudyDate": "20310405", "StudyTime": "101112.345", "StudyID": "STUDY-0815",
    "ReferringPhysicianName": "Ueberweiser^Anton", "AccessionNumber": "ACC-99881"}
"""What the standard wants in every object of the study."""
BEYOND = {
    "InstitutionName": "Klinik Dreiburgen", "InstitutionAddress": "Seeweg 7 Dreiburgen",
    "StationName": "CTSTATION7", "InstitutionalDepartmentName": "Roentgenabteilung",
    "PerformingPhysicianName": "Operateur^Olaf", "OperatorsName": "Technikerin^Tina",
    "PhysiciansOfRecord": "Hausarzt^Heinz", "OtherPatientIDs": "OTHER-31337", "PatientAge": "074Y",
    "PatientAddress": "Lindenallee 5 Neustadt", "PatientTelephoneNumbers": "0123-4567890",
    "PatientWeight": "61.537", "PatientSize": "1.6342", "PatientMotherBirthName": "Geborene^Maedchenname",
    "PatientComments": "Nachbarin von Zimmer 12", "EthnicGroup": "Testgruppe", "Occupation": "Bergsteigerin",
    "AdditionalPatientHistory": "Sturz im Garten", "StudyDescription": "Becken der Erkrankten",
    "SeriesDescription": "Knochen 47er Serie", "ProtocolName": "BeckenProtokoll9",
    "DeviceSerialNumber": "SERIAL-77123", "SeriesDate": "20310406", "AcquisitionDate": "20310407",
    "ContentDate": "20310408", "ImageComments": "Bildkommentar", "RequestingPhysician": "Anforderer^Axel",
    "AdmissionID": "AUFNAHME-5", "Manufacturer": "Scannerbauer GmbH", "ManufacturerModelName": "Scan-o-mat 9"}
PATIENT = "Musterfrau_Erika_PID-4711-X"
"""The folder that a hospital's system exports a series to."""


def planted(names=None) -> list[bytes]:
    """Every word of the planted tags that gives somebody away, longer than three letters."""
    values = " ".join(v for k, v in (STANDARD | BEYOND).items() if names is None or k in names)
    return sorted({word.encode() for word in values.replace("^", " ").split() if len(word) > 3})


def write_series(folder: Path, array: np.ndarray, spacing, origin, direction, *, reverse=False, tags=None,
                 drop=(), preamble=True, change=None) -> Path:
    """A CT series, one file a slice: array (d, h, w) in HU on a grid as in `Volume`, right-handed or not.

    The files' names, instance numbers and times run against the normal when ``reverse``. change: done to each
    header and the index of its slice. Returns the folder.
    """
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    step = np.asarray(direction) * np.asarray(spacing[::-1])
    order = range(len(array))[::-1] if reverse else range(len(array))
    for number, k in enumerate(order, 1):
        meta, uid = FileMetaDataset(), generate_uid()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        header.SpecificCharacterSet = "ISO_IR 100"
        header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, uid
        header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
        header.Modality, header.SeriesNumber, header.InstanceNumber = "CT", 3, number
        header.ImageType, header.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], "HFS"
        header.PositionReferenceIndicator = "SN"
        header.Rows, header.Columns = array.shape[1:]
        header.PixelSpacing, header.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        header.ImagePositionPatient = [f"{v:.8g}" for v in np.asarray(origin) + k * step[:, 2]]
        header.ImageOrientationPatient = [f"{v:.8g}" for v in np.asarray(direction)[:, :2].T.ravel()]
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
        header.RescaleIntercept, header.RescaleSlope = 0, 1
        header.PixelData = array[k].astype("<i2").tobytes()
        for name, value in (STANDARD | BEYOND | (tags or {})).items():
            setattr(header, name, value)
        header.private_block(0x0029, "HERSTELLER PRIVAT", create=True).add_new(0x10, "LO", "PrivateGeheimnis")
        for name in drop:
            delattr(header, name)
        if change:
            change(header, k)
        header.preamble = header.preamble if preamble else None
        header.save_as(folder / f"IM{number:04d}.dcm", enforce_file_format=preamble)
    return folder


def read(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path)
