"""A pipeline that finds hits, as the retriever of another framework.

    from rag.serve.adapters.langchain import PipelineRetriever

Each module here needs its framework, which is imported with the module and never by `rag` itself.
"""
