"""What finished runs are worth, told to people.

report          one run as a self-contained page: its parts, figures and diagnostics have a module each
compare         source-only, adapted and target-trained over seeds: runs, table, figure
run_record      what is on the disk of a run: settings, curves, results
run_outputs     what its network gives for images of both domains
"""
