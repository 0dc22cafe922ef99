"""run.py PAGE MEDIUM EXPORTED RECORDS [--write]: runs every query of the page over the medium with DuckDB, and compares what comes out with what the page
shows, or writes it there. Then pyarrow and DataFusion must find in the same segments, as they lie there, what DuckDB finds; and the page's view must
find in what was exported from an encrypted medium the numbers of the records that are a line each in the file RECORDS."""
import difflib, glob, json, re, sys
import datafusion, duckdb, pyarrow.dataset

page_path, medium, exported, records, *options = sys.argv[1:]
duck = duckdb.connect()
asked = 0


def shown(result):
    """A result as columns of text, numbers to the right."""
    rows = [result.columns] + [["" if value is None else str(value) for value in row] for row in result.fetchall()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    right = [kind.id.endswith("int") or kind.id == "double" for kind in result.types]
    line = lambda row: "  ".join(cell.rjust(width) if number else cell.ljust(width) for cell, width, number in zip(row, widths, right))
    return "".join(line(row).rstrip() + "\n" for row in rows)


def answered(block):
    """The block of SQL, and behind it what comes out. What begins with CREATE sets up the others."""
    global asked
    result = duck.sql(block[1].replace("MEDIUM", medium))
    if block[1].startswith("CREATE"):
        return block[0]
    asked += 1
    return f"```sql\n{block[1]}```\n```text\n{shown(result)}```\n"


page = open(page_path).read()
after = re.sub(r"```sql\n(.*?)```\n(?:```text\n.*?```\n)?", answered, page, flags=re.S)
if "--write" in options:
    open(page_path, "w").write(after)
    page = after
sys.stdout.writelines(difflib.unified_diff(page.splitlines(True), after.splitlines(True), page_path, "what comes out"))

# Every column is read: of each operation, rows and different contents.
[volume] = glob.glob(f"{medium}/*/")
question = "SELECT op, count(*), count(DISTINCT data) FROM {} GROUP BY op ORDER BY op"
table = pyarrow.dataset.dataset(glob.glob(f"{volume}*.parquet")).to_table()
by_op = table.group_by("op").aggregate([("op", "count"), ("data", "count_distinct")]).to_pylist()
fusion = datafusion.SessionContext()
fusion.register_parquet("journal", volume)
seen = {
    "DuckDB": duck.sql(question.format(f"'{volume}*.parquet'")).fetchall(),
    "pyarrow": sorted((row["op"], row["op_count"], row["data_count_distinct"]) for row in by_op),
    "DataFusion": [tuple(row.values()) for row in fusion.sql(question.format("journal")).to_pylist()],
}
for engine, rows in seen.items():
    print(f"{engine}: {sum(row[1] for row in rows)} records, {len(rows)} operations")
sealed = sum(json.load(open(path))["records"] for path in glob.glob(f"{volume}*.manifest.json"))
print(f"{asked} queries asked, {sealed} records are sealed")
other = duckdb.connect()
[views] = re.findall(r"```sql\n(CREATE MACRO .*?)```", page, flags=re.S)
other.execute(views.replace("MEDIUM", exported))
decrypted = [seq for (seq,) in other.sql("SELECT seq FROM journal ORDER BY moment").fetchall()]
print(f"{len(decrypted)} records were encrypted")
alike = decrypted == [json.loads(line)["seq"] for line in open(records)] and all(rows == seen["DuckDB"] for rows in seen.values()) and sealed == sum(row[1] for row in seen["DuckDB"])
sys.exit(page != after or not asked or not alike)
