//go:build tools

// Package tools names the programs that build.sh builds, so that go.mod and go.sum pin what they are made of.
package tools

import (
	_ "github.com/yannh/kubeconform/cmd/kubeconform"
	_ "sigs.k8s.io/kwok/cmd/kwok"
)
