// Device-plugin offers nvidia.com/gpu on a node, as NVIDIA's device plugin and container toolkit do together: a container that gets
// GPUs gets the driver mounted at /usr/local/nvidia. The driver is a folder with lib64, lib and env, and may be an emulated one.
//
//	device-plugin FOLDER GPUS
//
// FOLDER/env holds the variables of containers, one NAME=VALUE a line. It is read at every allocation; without it, the node has no
// driver, and nothing is mounted. FOLDER/next holds a line for each coming allocation with variables for this one alone, separated
// by spaces; an allocation removes its line.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	resource = "nvidia.com/gpu"
	endpoint = "gpus.sock"
)

type plugin struct {
	api.UnimplementedDevicePluginServer
	folder    string
	gpus      int
	allocates sync.Mutex
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

func (p *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	devices := make([]*api.Device, p.gpus)
	for index := range devices {
		devices[index] = &api.Device{ID: strconv.Itoa(index), Health: api.Healthy}
	}
	if err := stream.Send(&api.ListAndWatchResponse{Devices: devices}); err != nil {
		return err
	}
	// The devices are gone when the stream ends.
	<-stream.Context().Done()
	return nil
}

func (p *plugin) Allocate(_ context.Context, request *api.AllocateRequest) (*api.AllocateResponse, error) {
	p.allocates.Lock()
	defer p.allocates.Unlock()
	response := &api.AllocateResponse{}
	for _, container := range request.ContainerRequests {
		allocation, err := p.allocation()
		if err != nil {
			return nil, err
		}
		allocation.Envs["NVIDIA_VISIBLE_DEVICES"] = strings.Join(container.DevicesIds, ",")
		log.Printf("allocated %v", allocation)
		response.ContainerResponses = append(response.ContainerResponses, allocation)
	}
	return response, nil
}

func (p *plugin) allocation() (*api.ContainerAllocateResponse, error) {
	env, err := os.ReadFile(filepath.Join(p.folder, "env"))
	if errors.Is(err, fs.ErrNotExist) {
		return &api.ContainerAllocateResponse{Envs: map[string]string{}}, nil
	} else if err != nil {
		return nil, err
	}
	own, err := p.next()
	if err != nil {
		return nil, err
	}
	variables := map[string]string{}
	for _, variable := range append(strings.Split(string(env), "\n"), strings.Fields(own)...) {
		if name, value, found := strings.Cut(variable, "="); found {
			variables[name] = value
		}
	}
	driver := &api.Mount{ContainerPath: "/usr/local/nvidia", HostPath: p.folder, ReadOnly: true}
	return &api.ContainerAllocateResponse{Envs: variables, Mounts: []*api.Mount{driver}}, nil
}

// next removes the first line of FOLDER/next, if there is one.
func (p *plugin) next() (string, error) {
	file := filepath.Join(p.folder, "next")
	coming, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	line, rest, _ := strings.Cut(string(coming), "\n")
	return line, os.WriteFile(file, []byte(rest), 0o644)
}

func run(folder string, gpus int) error {
	os.Remove(api.DevicePluginPath + endpoint)
	listener, err := net.Listen("unix", api.DevicePluginPath+endpoint)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, &plugin{folder: folder, gpus: gpus})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	kubelet, err := grpc.NewClient("unix://"+api.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	request := &api.RegisterRequest{Version: api.Version, Endpoint: endpoint, ResourceName: resource}
	if _, err := api.NewRegistrationClient(kubelet).Register(context.Background(), request); err != nil {
		return err
	}
	return <-ended
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: device-plugin FOLDER GPUS")
	}
	gpus, err := strconv.Atoi(os.Args[2])
	if err == nil {
		err = run(os.Args[1], gpus)
	}
	log.Fatal(fmt.Errorf("device-plugin: %w", err))
}
