// Command generate writes controlplane/api/openapi.json. It reads the protos, with their comments, as buf writes them:
//
//	buf build --path proto/chom -o -#format=binpb | go run ./controlplane/openapi/generate > controlplane/api/openapi.json
package main

import (
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"chom.dev/controlplane/api"
	"chom.dev/controlplane/openapi"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run(from io.Reader, to io.Writer) error {
	image, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(image, &set); err != nil {
		return fmt.Errorf("read the protos: %w", err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return fmt.Errorf("read the protos: %w", err)
	}
	methods := map[string]protoreflect.MethodDescriptor{}
	for procedure, method := range api.Methods() {
		found, err := files.FindDescriptorByName(method.FullName())
		if err != nil {
			return fmt.Errorf("%s is not in the protos: %w", procedure, err)
		}
		commented, ok := found.(protoreflect.MethodDescriptor)
		if !ok {
			return fmt.Errorf("%s is no method", procedure)
		}
		methods[procedure] = commented
	}
	document, err := openapi.Document(methods, api.AccessOf)
	if err != nil {
		return err
	}
	_, err = to.Write(document)
	return err
}
