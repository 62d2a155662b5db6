use std::process::ExitCode;

fn main() -> ExitCode {
    kubectl_stic::main()
}
