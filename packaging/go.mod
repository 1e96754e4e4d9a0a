module chom.dev/packaging

go 1.26.0

require chom.dev/proto v0.0.0

require (
	connectrpc.com/connect v1.21.1 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace chom.dev/proto => ../proto
