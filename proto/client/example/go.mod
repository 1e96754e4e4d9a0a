module example.com/list-organizations

go 1.26.0

require chom.dev/proto v0.0.0

require (
	buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go v1.36.12-20260415201107-50325440f8f2.1 // indirect
	connectrpc.com/connect v1.21.1 // indirect
	google.golang.org/genproto/googleapis/api v0.0.0-20251202230838-ff82c1b0f217 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

// Outside of the repository this is the place of a clone.
replace chom.dev/proto => ../..
