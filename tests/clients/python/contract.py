"""A client of the batch contract in Python: generated from the .proto by grpcio-tools, as its users would.

Gets the address and the directory of the contract; prints what it saw, which tests/it/clients/contract.rs judges.
"""

import importlib.resources
import json
import sys
import tempfile

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

address, contract = sys.argv[1:]
generated = tempfile.mkdtemp()
arguments = [
    "protoc",
    f"--proto_path={contract}",
    f"--proto_path={importlib.resources.files('grpc_tools') / '_proto'}",
    f"--python_out={generated}",
    f"--grpc_python_out={generated}",
    f"--descriptor_set_out={generated}/descriptors",
    "forebay/ingest/v1/ingest.proto",
]
assert protoc.main(arguments) == 0
sys.path.insert(0, generated)

from forebay.ingest.v1 import ingest_pb2 as pb  # noqa: E402
from forebay.ingest.v1 import ingest_pb2_grpc as stubs  # noqa: E402

SERVICE = "forebay.ingest.v1.IngestService"


def event(number, **fields):
    made = pb.Event(event_id=f"python-{number}", service="python", message=f"Grüße 🌍 {number}", **fields)
    made.timestamp.FromNanoseconds(1_700_000_000_123_456_789 + number)
    return made


def batch(batch_id, *events):
    return pb.EventBatchRequest(batch_id=batch_id, source="python", events=events)


def seen(answer):
    return {
        "success": answer.success,
        "batch_id": answer.batch_id,
        "received": answer.received_count,
        "rejected": [(one.index, one.field) for one in answer.rejected],
        "duplicate": answer.duplicate,
    }


def ended(call):
    try:
        call()
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


def methods(file):
    """What a file says of its services: methods, types, and which sides stream."""
    described = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(described)
    return sorted(
        (service.name, method.name, method.input_type, method.output_type)
        + (method.client_streaming, method.server_streaming)
        for service in described.service
        for method in service.method
    )


report = {}
with grpc.insecure_channel(address) as channel:
    ingest = stubs.IngestServiceStub(channel)
    report["health"] = pb.ServingStatus.Name(ingest.HealthCheck(pb.HealthCheckRequest()).status)

    with_tree = event(1)
    with_tree.metadata.update({"text": "ü", "flag": True, "list": [1, "two", None], "object": {"inner": 0.5}})
    with_json = event(2, metadata_json='{"large": 9007199254740993}')
    first = batch("batch-1", with_tree, with_json, event(3), pb.Event(message="nobody speaks"))
    report["first"] = seen(ingest.SendBatch(first, compression=grpc.Compression.Gzip))
    report["again"] = seen(ingest.SendBatch(first, compression=grpc.Compression.Deflate))

    batches = [batch(f"stream-{number}", event(100 + number)) for number in range(50)]
    report["stream"] = sorted(answer.batch_id for answer in ingest.SendBatches(iter(batches)) if answer.success)

    raw = channel.unary_unary(f"/{SERVICE}/SendBatch")
    report["garbage"] = ended(lambda: raw(b"\xff\xff"))
    report["too_large"] = ended(lambda: ingest.SendBatch(batch("large", event(1, metadata_json=f'"{"x" * 100_000}"'))))
    report["unknown"] = ended(lambda: channel.unary_unary(f"/{SERVICE}/SendNothing")(b""))

    # What the server tells of itself is what is in the file.
    told = ProtoReflectionDescriptorDatabase(channel)
    report["services"] = sorted(told.get_services())
    of_server = DescriptorPool(told).FindServiceByName(SERVICE).file
    report["same"] = methods(of_server) == methods(pb.DESCRIPTOR) and len(methods(of_server)) == 3

print(json.dumps(report))
