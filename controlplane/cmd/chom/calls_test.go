package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	api "chom.dev/proto/client"
)

// Reasons for calls that no command makes.
const (
	byBrowser = "only a browser's session may: the help of the group says where it is done"
	inBrowser = "it is how a browser signs in and out: programs have tokens"
)

// withoutCommand are the calls of people's API that no command makes.
var withoutCommand = map[string]string{
	"chom.account.v1.AccountService/ChangePassword":     byBrowser,
	"chom.account.v1.AccountService/RequestEmailChange": byBrowser,

	"chom.account.v1.SessionService/Login":              inBrowser,
	"chom.account.v1.SessionService/LoginWithCode":      inBrowser,
	"chom.account.v1.SessionService/BeginPasskeyLogin":  inBrowser,
	"chom.account.v1.SessionService/LoginWithPasskey":   inBrowser,
	"chom.account.v1.SessionService/Logout":             inBrowser,
	"chom.account.v1.SessionService/StepUp":             byBrowser,
	"chom.account.v1.SessionService/BeginPasskeyStepUp": byBrowser,
	"chom.account.v1.SessionService/StepUpWithPasskey":  byBrowser,

	"chom.account.v1.SecondFactorService/BeginTotp":           byBrowser,
	"chom.account.v1.SecondFactorService/ConfirmTotp":         byBrowser,
	"chom.account.v1.SecondFactorService/DeleteTotp":          byBrowser,
	"chom.account.v1.SecondFactorService/CreateRecoveryCodes": byBrowser,
	"chom.account.v1.SecondFactorService/BeginPasskey":        byBrowser,
	"chom.account.v1.SecondFactorService/CreatePasskey":       byBrowser,
	"chom.account.v1.SecondFactorService/UpdatePasskey":       byBrowser,
	"chom.account.v1.SecondFactorService/DeletePasskey":       byBrowser,

	"chom.account.v1.DeviceLoginService/GetDeviceLogin":     byBrowser,
	"chom.account.v1.DeviceLoginService/ApproveDeviceLogin": byBrowser,
	"chom.account.v1.DeviceLoginService/DenyDeviceLogin":    byBrowser,

	"chom.backup.v1.ImportService/UploadImport": "chom site import sends bytes to its URL by REST",
}

// otherDoors are services that are not for people.
var otherDoors = map[protoreflect.FullName]string{
	"chom.link.v1.LinkService":       "the agents' door",
	"chom.link.v1.EnrollmentService": "the agents' door",
	"chom.plugin.v1.SiteTypeService": "between an agent and its plugins",
}

// TestEveryCallHasACommand claims that the command line can do what the API can: each call is made by a command, or stands above
// with the reason why not.
func TestEveryCallHasACommand(t *testing.T) {
	made, known := callsMade(t), 0
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			if !strings.HasPrefix(string(service.FullName()), "chom.") || otherDoors[service.FullName()] != "" {
				continue
			}
			for j := range service.Methods().Len() {
				known++
				call := string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				t.Run(call, func(t *testing.T) {
					switch reason := withoutCommand[call]; {
					case !made[call] && reason == "":
						t.Error("no command makes this call: write one, or say above why there is none")
					case made[call] && reason != "":
						t.Errorf("a command makes this call, but it stands above: %s", reason)
					}
				})
			}
		}
		return true
	})
	if known < 80 {
		t.Errorf("only %d calls are known: services are missing in this test's binary", known)
	}
}

// callsMade are the calls in the source of this package, c.Sites.CreateSite among them, by their full names.
func callsMade(t *testing.T) map[string]bool {
	t.Helper()
	services := map[string]string{} // by the client's field
	for i := range reflect.TypeFor[api.Client]().NumField() {
		field := reflect.TypeFor[api.Client]().Field(i)
		if name, isService := strings.CutSuffix(field.Type.Name(), "Client"); isService {
			parts := strings.Split(path.Dir(field.Type.PkgPath()), "/") // chom.dev/proto/gen/chom/site/v1
			services[field.Name] = strings.Join(parts[len(parts)-3:], ".") + "." + name
		}
	}
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]bool{}
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.SelectorExpr); ok {
				if client, ok := call.X.(*ast.SelectorExpr); ok && services[client.Sel.Name] != "" {
					made[services[client.Sel.Name]+"/"+call.Sel.Name] = true
				}
			}
			return true
		})
	}
	return made
}
