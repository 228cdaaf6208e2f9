"""Takes OTLP, HTTP on port 4318 and gRPC on 4317, and prints each span and metric as a JSON line; run by a test."""

import gzip
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_rpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

_writing = threading.Lock()


def plain(values):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in values}


def tell(request, protocol):
    for each in request.resource_spans:
        resource = plain(each.resource.attributes)
        for span in (span for scope in each.scope_spans for span in scope.spans):
            told = {
                "protocol": protocol,
                "resource": resource,
                "trace_id": span.trace_id.hex(),
                "span_id": span.span_id.hex(),
                "parent_id": span.parent_span_id.hex(),
                "name": span.name,
                "kind": span.kind,
                "state": span.trace_state,
                "attributes": plain(span.attributes),
                "events": [plain(event.attributes) for event in span.events],
                "links": [link.trace_id.hex() for link in span.links],
                "error": span.status.message if span.status.code == 2 else "",
                "took_ns": span.end_time_unix_nano - span.start_time_unix_nano,
            }
            write(told)
    return service.ExportTraceServiceResponse()


def write(told):
    with _writing:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def tell_metrics(request, protocol):
    for each in request.resource_metrics:
        for metric in (metric for scope in each.scope_metrics for metric in scope.metrics):
            kind = metric.WhichOneof("data")
            points = [
                {
                    "attributes": plain(point.attributes),
                    "value": point.count if kind == "histogram" else point.as_double,
                }
                for point in getattr(metric, kind).data_points
            ]
            resource = plain(each.resource.attributes)
            write({"metric": metric.name, "kind": kind, "points": points, "resource": resource, "protocol": protocol})
    return metrics.ExportMetricsServiceResponse()


class OverHttp(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/metrics":
            answer = tell_metrics(metrics.ExportMetricsServiceRequest.FromString(body), "http")
        else:
            assert self.path == "/v1/traces"
            answer = tell(service.ExportTraceServiceRequest.FromString(body), "http")
        reply = answer.SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


class OverGrpc(rpc.TraceServiceServicer):
    def Export(self, request, context):  # noqa: N802  # gRPC's name
        return tell(request, "grpc")


class MetricsOverGrpc(metrics_rpc.MetricsServiceServicer):
    def Export(self, request, context):  # noqa: N802  # gRPC's name
        return tell_metrics(request, "grpc")


if __name__ == "__main__":
    server = grpc.server(ThreadPoolExecutor(4))
    rpc.add_TraceServiceServicer_to_server(OverGrpc(), server)
    metrics_rpc.add_MetricsServiceServicer_to_server(MetricsOverGrpc(), server)
    server.add_insecure_port("127.0.0.1:4317")
    server.start()
    http = HTTPServer(("127.0.0.1", 4318), OverHttp)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    http.serve_forever()
