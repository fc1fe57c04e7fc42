"""The server's part of a job."""

from deployed_parts import make_server
from nvflare.app_common.workflows.model_controller import ModelController

from equifed.deploy import nvflare


class Training(ModelController):
    def __init__(self, method, output):
        super().__init__(ignore_result_error=True)
        self.method, self.output = method, output

    def run(self):
        config = {"checkpoints": "", "rounds": 3}
        server = make_server({"method": self.method, "output": self.output} | config)
        nvflare.serve(self, server)
