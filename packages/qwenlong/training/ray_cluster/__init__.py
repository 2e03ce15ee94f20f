"""Ray inside an allocation: started on its machines, checked, ended."""
